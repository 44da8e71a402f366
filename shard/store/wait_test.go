package store_test

import "time"

// How long and how often tests wait for what pebble does in the background.
const (
	waitLong = 20 * time.Second
	waitStep = 5 * time.Millisecond
)
