// Package docs holds the documentation, and tests that keep it true: names of symbols, keys, verbs, problem codes, metrics and
// message fields are compared with the code. It imports config, flush/policy and proto in its tests only.
package docs
