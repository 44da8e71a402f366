// Package child starts a driver's program and keeps it within its limits: memory, what it may say on its standard error, its process
// group. It is the stream of package process to a child process, and stands beside it; it imports proto alone.
//
// Memory is what of it is resident, looked at four times a second. RLIMIT_AS and RLIMIT_DATA count what a program has reserved, of which
// programs in Go and others with large arenas have far more than they use, and whoever meets the limit fails where its author did not
// think of it. So the program is told its limit (GOMEMLIMIT, at nine tenths), ended in words when it is over it, and the first that the
// kernel takes (oom_score_adj) if it grows faster than that. What it starts itself is not counted.
package child
