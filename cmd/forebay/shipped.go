//go:build !failpoint

package main

import "forebay/internal/faultpoint"

// failpoint is nothing in the program that ships; see failpoint.go.
func failpoint() faultpoint.Hook { return nil }
