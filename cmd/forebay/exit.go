package main

import (
	"context"
	"errors"
	"fmt"
)

// The exit codes. Daemons use 0, 1 and 2 only.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitPart        = 3 // done in part; what was not is listed
	exitInterrupted = 130
)

// codeError is an error that chooses its exit code. An empty message prints nothing: the verb has said it all.
type codeError struct {
	code int
	err  error
}

func (e *codeError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *codeError) Unwrap() error { return e.err }

// usagef is a mistake on the command line.
func usagef(format string, args ...any) error {
	return &codeError{exitUsage, fmt.Errorf(format, args...)}
}

// partly says that a verb did what it could; it has listed the rest.
func partly(format string, args ...any) error {
	return &codeError{exitPart, fmt.Errorf(format, args...)}
}

// quietly ends with a code that speaks for itself.
func quietly(code int) error {
	if code == exitDone {
		return nil
	}
	return &codeError{code: code}
}

// codeOf is the exit code of an error.
func codeOf(err error) int {
	var e *codeError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &e):
		return e.code
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	return exitFailed
}
