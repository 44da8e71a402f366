package policy

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestBudgetWindow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ window, zone, now, opened, next string }{
		{"22:00-06:00", "UTC", "2026-11-20T23:00:00Z", "2026-11-20T22:00:00Z", "2026-11-21T22:00:00Z"},
		{"22:00-06:00", "UTC", "2026-11-21T05:59:59Z", "2026-11-20T22:00:00Z", "2026-11-21T22:00:00Z"},
		{"22:00-06:00", "UTC", "2026-11-21T06:00:00Z", "2026-11-20T22:00:00Z", "2026-11-21T22:00:00Z"}, // closed: the last one
		{"22:00-06:00", "UTC", "2026-11-20T22:00:00Z", "2026-11-20T22:00:00Z", "2026-11-21T22:00:00Z"},
		// Entries without a gap between them are one window.
		{"Fri 22:00-06:00, Sat,Sun 00:00-24:00", "UTC", "2026-11-22T12:00:00Z", "2026-11-20T22:00:00Z", "2026-11-27T22:00:00Z"},
		{"10:00-11:00, 11:00-12:00, 14:00-15:00", "UTC", "2026-11-20T11:30:00Z", "2026-11-20T10:00:00Z", "2026-11-20T14:00:00Z"},
		// Without windows, or when they never close: the calendar day.
		{"always", "Europe/Berlin", "2026-11-20T12:00:00Z", "2026-11-19T23:00:00Z", "2026-11-20T23:00:00Z"},
		{"00:00-24:00", "Europe/Berlin", "2026-11-20T12:00:00Z", "2026-11-19T23:00:00Z", "2026-11-20T23:00:00Z"},
		{"always", "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"}, // a day of 23 hours
		{"always", "Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"}, // one of 25
		// A day that begins at 01:00, since midnight is skipped.
		{"always", "America/Santiago", "2026-09-06T12:00:00Z", "2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z"},
		// The hour that happens twice is one window; the half that lies on both sides of a gap opens twice, and is two.
		{"02:00-03:00", "Europe/Berlin", "2026-10-25T01:30:00Z", "2026-10-25T00:00:00Z", "2026-10-26T01:00:00Z"},
		{"01:30-02:30", "Europe/Berlin", "2026-10-25T01:10:00Z", "2026-10-25T01:00:00Z", "2026-10-26T00:30:00Z"},
		// The hour that is skipped opens no window: the one of the day before stands.
		{"02:00-03:00", "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T01:00:00Z", "2026-03-30T00:00:00Z"},
	} {
		p := with(t, "window", c.window, "timezone", c.zone, "budget", "1GiB")
		opened, next := p.BudgetWindow(at(t, c.now))
		require.Equal(t, []string{c.opened, c.next}, []string{opened.UTC().Format(time.RFC3339), next.UTC().Format(time.RFC3339)}, "%+v", c)
	}
}

// Any two moments are in one window exactly if no window opens between them: each five minutes of the way are looked at.
func TestBudgetWindowsAgreeWithTheWindows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := Default()
		p.Windows, _ = drawWindows(t)
		zone, err := ParseZone(drawZone.Draw(t, "zone"))
		require.NoError(t, err)
		p.Zone = zone
		loc := zone.Location()
		now := drawInstant.Draw(t, "now").Truncate(5 * time.Minute)
		_, closes := p.Windows.NextChange(now, loc)
		opened, next := p.BudgetWindow(now)
		require.False(t, opened.After(now))
		require.True(t, next.After(now))
		for range 12 * 24 * 3 {
			before := now
			now = now.Add(5 * time.Minute)
			opens := p.Windows.Open(now, loc) && !p.Windows.Open(before, loc)
			if !closes {
				opens = now.In(loc).Day() != before.In(loc).Day()
			}
			o, n := p.BudgetWindow(now)
			if opens {
				require.True(t, o.Equal(now), "opens at %s, not %s", now.In(loc), o.In(loc))
				require.True(t, next.Equal(now), "was told before")
				opened, next = o, n
				continue
			}
			require.True(t, o.Equal(opened) && n.Equal(next), "at %s: %s to %s, was %s to %s", now.In(loc), o.In(loc), n.In(loc), opened.In(loc), next.In(loc))
		}
	})
}
