// Package e2e tests Forebay as it is used: a relay and agents as processes of the built program, on real trees, watched through
// the operators' API, killed and stopped, and the backups compared by a witness that shares no code with them.
//
// The harness is in files of its own: a site is a relay with its targets and the nodes of one or more clusters (site_test.go),
// made of processes (process_test.go), asked and waited for (ask_test.go), reached through a proxy where a test cuts or counts
// (proxy_test.go), holding trees (tree_test.go). Tests use the program, package internal/operator and internal/treecmp, and
// never the packages that they judge.
package e2e
