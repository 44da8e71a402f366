package proto

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Class is what an error means for whoever has to go on. The set is closed; it survives the wire.
type Class string

// The classes.
const (
	ClassTransient Class = "transient" // the same call may succeed later
	ClassPermanent Class = "permanent" // the same call will fail again: bad input, no rights, not supported
	ClassCorrupt   Class = "corrupt"   // bytes are not what their digest says
	ClassConflict  Class = "conflict"  // somebody else has the right: stale epoch, other owner, changed meanwhile
	ClassOverload  Class = "overload"  // no room or no bandwidth now; try after RetryAfter
)

// Error is an error with a class, and the form in which errors cross the wire (as CBOR to agents, as JSON to operators).
type Error struct {
	Class      Class         `cbor:"1,keyasint" json:"class"`
	Message    string        `cbor:"2,keyasint" json:"error"`
	RetryAfter time.Duration `cbor:"3,keyasint,omitempty" json:"retry_after_ns,omitempty"`
	err        error
}

// Errorf makes an Error; %w works.
func Errorf(class Class, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Class: class, Message: err.Error(), err: errors.Unwrap(err)}
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns what Errorf wrapped.
func (e *Error) Unwrap() error { return e.err }

// ClassOf returns the class of the first Error in err's chain, ClassTransient for any other error and "" for nil.
func ClassOf(err error) Class {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return ClassTransient
}

// HTTPStatus returns the status code under which a class travels.
func (c Class) HTTPStatus() int {
	switch c {
	case ClassPermanent:
		return http.StatusBadRequest
	case ClassCorrupt:
		return http.StatusUnprocessableEntity
	case ClassConflict:
		return http.StatusConflict
	case ClassOverload:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
