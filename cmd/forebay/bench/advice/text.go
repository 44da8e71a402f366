package advice

import (
	"fmt"
	"math"
	"time"

	"forebay/internal/show"
	"forebay/units"
)

// millis prints seconds as milliseconds.
func millis(s float64) string { return fmt.Sprintf("%.1f ms", 1000*s) }

// orUnknown prints a rate.
func orUnknown(r float64) string {
	if r <= 0 {
		return "an unmeasured rate"
	}
	return show.Rate(r)
}

// rate writes a rate as the configuration reads it, in whole MiB where there is one.
func rate(r float64) string {
	if mib := math.Round(r / float64(units.MiB)); mib >= 1 {
		return units.Rate(mib * float64(units.MiB)).String()
	}
	return units.Rate(math.Max(math.Round(r/float64(units.KiB)), 1) * float64(units.KiB)).String()
}

// floor and ceil round to whole GiB, or to MiB below one.
func floor(n float64) int64 {
	step := stepOf(n)
	return int64(n/step) * int64(step)
}

func ceil(n float64) int64 {
	step := stepOf(n)
	return int64(math.Ceil(n/step)) * int64(step)
}

func stepOf(n float64) float64 {
	if n < float64(units.GiB) {
		return float64(units.MiB)
	}
	return float64(units.GiB)
}

// perObject is what each of so many objects a second takes, as --per-object reads it.
func perObject(perSecond float64) string {
	d := time.Duration(float64(time.Second) / perSecond)
	return max(d.Round(100*time.Microsecond), 100*time.Microsecond).String()
}
