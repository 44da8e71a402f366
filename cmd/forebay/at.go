package main

import (
	"strings"
	"time"

	"forebay/units"
)

// localForms are the ways to write a moment in a zone that follows it.
var localForms = []string{"2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02"}

// parseAt reads a moment: RFC 3339; a local date and time followed by its zone, as an offset or by its IANA name; or how long ago.
func parseAt(text string, now time.Time) (time.Time, error) {
	at, ok := readAt(strings.TrimSpace(text), now)
	switch {
	case !ok:
		return at, usagef("--at %q: write 2026-11-26T14:30:00Z, 2026-11-26T14:30:00+01:00, \"2026-11-26 14:30 Europe/Berlin\", or how long ago, such as 2h or 3d", text)
	case at.After(now):
		return at, usagef("--at %q is %s, which is still to come", text, at.UTC().Format(time.RFC3339))
	}
	return at, nil
}

func readAt(text string, now time.Time) (time.Time, bool) {
	if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return at, true
	}
	if ago, err := units.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago.Std()), true
	}
	cut := strings.LastIndexByte(text, ' ')
	if cut < 0 {
		return time.Time{}, false
	}
	local, zone := strings.TrimSpace(text[:cut]), text[cut+1:]
	for _, form := range localForms {
		for _, offset := range []string{"Z07:00", "-0700"} {
			if at, err := time.Parse(form+" "+offset, local+" "+zone); err == nil {
				return at, true
			}
		}
		where, err := time.LoadLocation(zone)
		if err != nil || zone == "" || zone == "Local" { // whose local time that is, nobody can tell later
			continue
		}
		if at, err := time.ParseInLocation(form, local, where); err == nil {
			return at, true
		}
	}
	return time.Time{}, false
}
