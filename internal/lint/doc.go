// Package lint holds the rules of the house that no linter knows, as tests: each package says what it is for, files stay
// small, and nothing runs before main. It imports nothing of Forebay.
package lint
