package units

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestSize(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]struct {
		bytes int64
		text  string
	}{
		"0": {0, "0B"}, "0B": {0, "0B"}, "1B": {1, "1B"}, "1024B": {1024, "1KiB"}, "1KiB": {1024, "1KiB"}, "1KB": {1000, "1KB"},
		"1.5GiB": {3 << 29, "1536MiB"}, "200GiB": {200 << 30, "200GiB"}, " 2 TB ": {2e12, "2TB"}, "0.5KiB": {512, "512B"},
		"1TiB": {1 << 40, "1TiB"}, "10MB": {1e7, "10MB"}, "128KB": {128000, "125KiB"},
	} {
		got, err := ParseSize(in)
		require.NoError(t, err, in)
		require.Equal(t, want.bytes, int64(got), in)
		require.Equal(t, want.text, got.String(), in)
	}
	for in, says := range map[string]string{
		"": "number", "GiB": "number", "10": "no unit", "10M": "did you mean MiB", "10mb": "did you mean MB", "10Gib": "did you mean GiB",
		"-1GiB": "negative", "1.5B": "whole number", "99999999TiB": "too large", "1.2.3GiB": "not a number", "1e3B": "unknown unit",
		".5GiB": "not a number", "5 parsecs": "unknown unit", "1/2GiB": "unknown unit", "9999999999999999999999999999999999B": "longer",
	} {
		_, err := ParseSize(in)
		require.ErrorContains(t, err, says, in)
		require.ErrorContains(t, err, "KiB MiB GiB TiB", "the error says what is allowed")
	}
}

func TestHuman(t *testing.T) {
	t.Parallel()
	for n, want := range map[Size]string{0: "0B", 1023: "1023B", 1024: "1.00KiB", 1536 * MiB: "1.50GiB", 200 * GiB: "200GiB", 12345678: "11.8MiB"} {
		require.Equal(t, want, n.Human())
	}
}

func TestDuration(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]struct {
		d    time.Duration
		text string
	}{
		"0": {0, "0s"}, "0s": {0, "0s"}, "90s": {90 * time.Second, "1m30s"}, "24h": {24 * time.Hour, "24h"}, "1d": {24 * time.Hour, "24h"},
		"48h": {48 * time.Hour, "2d"}, "1w": {7 * 24 * time.Hour, "7d"}, "2w": {14 * 24 * time.Hour, "2w"}, "30d": {30 * 24 * time.Hour, "30d"},
		"1d12h": {36 * time.Hour, "36h"}, "2d12h": {60 * time.Hour, "2d12h"}, "250ms": {250 * time.Millisecond, "250ms"},
		"1.5ms": {1500 * time.Microsecond, "1.5ms"}, "1.5h": {90 * time.Minute, "1h30m"}, "1h0m5s": {time.Hour + 5*time.Second, "1h5s"},
		"1m250ms": {time.Minute + 250*time.Millisecond, "1m250ms"},
	} {
		got, err := ParseDuration(in)
		require.NoError(t, err, in)
		require.Equal(t, want.d, got.Std(), in)
		require.Equal(t, want.text, got.String(), in)
	}
	for in, says := range map[string]string{
		"": "number", "5": "without a unit", "5 minutes": "unknown unit", "5M": "unknown unit", "1m1h": "out of order", "1s1s": "out of order",
		"-5m": "negative", "300000w": "too large", "15250w9000h99999999h": "unknown", "1h5": "without a unit", "1us": "unknown unit",
		"15250w99999d": "too large",
	} {
		_, err := ParseDuration(in)
		require.Error(t, err, in)
		if says != "unknown" {
			require.ErrorContains(t, err, says, in)
		}
		require.ErrorContains(t, err, "w d h m s ms")
	}
}

func TestRate(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]struct {
		bytes int64
		text  string
	}{
		"off": {0, "off"}, "OFF": {0, "off"}, "10M": {10 << 20, "10MiB/s"}, "10m": {10 << 20, "10MiB/s"}, "512": {512 << 10, "512KiB/s"},
		"512k": {512 << 10, "512KiB/s"}, "10MiB/s": {10 << 20, "10MiB/s"}, "10MiB": {10 << 20, "10MiB/s"}, "10MB/s": {1e7, "10MB/s"},
		"80Mbit/s": {1e7, "10MB/s"}, "1Gbit/s": {125e6, "125MB/s"}, "100B": {100, "100B/s"}, "1.5M": {3 << 19, "1536KiB/s"},
		"64kbit/s": {8000, "8KB/s"}, "2G": {2 << 30, "2GiB/s"},
	} {
		got, err := ParseRate(in)
		require.NoError(t, err, in)
		require.Equal(t, want.bytes, int64(got), in)
		require.Equal(t, want.text, got.String(), in)
	}
	for in, says := range map[string]string{
		"": "number", "0": "not clear", "fast": "number", "10Mb": "unknown unit", "10Mbps": "unknown unit", "10M:1M": "two directions",
		"1bit/s": "whole number", "-1M": "negative", "10M/s": "unknown unit", "99999999T": "too large", "unlimited": "number",
	} {
		_, err := ParseRate(in)
		require.ErrorContains(t, err, says, in)
	}
}

func TestPercent(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]struct {
		p    Percent
		text string
	}{"0": {0, "0%"}, "20%": {2000, "20%"}, "12.5%": {1250, "12.5%"}, "100%": {Hundred, "100%"}, "0.05%": {5, "0.05%"}} {
		got, err := ParsePercent(in)
		require.NoError(t, err, in)
		require.Equal(t, want.p, got, in)
		require.Equal(t, want.text, got.String(), in)
	}
	for in, says := range map[string]string{"20": "no % sign", "101%": "more than", "-1%": "negative", "0.001%": "whole number", "x%": "number", "20%%": "no % sign"} {
		_, err := ParsePercent(in)
		require.ErrorContains(t, err, says, in)
	}
	require.Equal(t, int64(20), Percent(2000).Of(100))
	require.Equal(t, int64(1<<62), Hundred.Of(1<<62))
	require.Equal(t, int64(0), Percent(2000).Of(4))
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(0, 1<<62).Draw(t, "n")
		// Shifting makes round values, which use large units, likely.
		n = n >> rapid.IntRange(0, 62).Draw(t, "right") << rapid.IntRange(0, 20).Draw(t, "left") & (1<<62 - 1)

		size, err := ParseSize(Size(n).String())
		require.NoError(t, err)
		require.Equal(t, Size(n), size)
		rate, err := ParseRate(Rate(n).String())
		require.NoError(t, err)
		require.Equal(t, Rate(n), rate)
		p := Percent(n % 10001)
		percent, err := ParsePercent(p.String())
		require.NoError(t, err)
		require.Equal(t, p, percent)
		for _, unit := range []Duration{1, Duration(time.Millisecond), Duration(time.Second), Duration(time.Hour), Day, Week} {
			d := Duration(n) / unit * unit
			got, err := ParseDuration(d.String())
			require.NoError(t, err)
			require.Equal(t, d, got, d.String())
		}
	})
}

func TestTextForms(t *testing.T) {
	t.Parallel()
	type all struct {
		S Size     `json:"s" yaml:"s"`
		D Duration `json:"d" yaml:"d"`
		R Rate     `json:"r" yaml:"r"`
		P Percent  `json:"p" yaml:"p"`
	}
	var v all
	require.NoError(t, yaml.Unmarshal([]byte("s: 1GiB\nd: 5m\nr: 10M\np: 20%\n"), &v))
	b, err := json.Marshal(v)
	require.NoError(t, err)
	require.JSONEq(t, `{"s":"1GiB","d":"5m","r":"10MiB/s","p":"20%"}`, string(b))
	var w all
	require.NoError(t, json.Unmarshal(b, &w))
	require.Equal(t, v, w)
	require.Error(t, json.Unmarshal([]byte(`{"s":"1"}`), &w))
	require.Equal(t, v, w, "a failed reading changes nothing")
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"1GiB", "1d12h", "10M", "off", "12.5%", "80Mbit/s", "", "1.", "0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if v, err := ParseSize(s); err == nil {
			again, err := ParseSize(v.String())
			require.NoError(t, err)
			require.Equal(t, v, again)
		}
		if v, err := ParseDuration(s); err == nil {
			again, err := ParseDuration(v.String())
			require.NoError(t, err)
			require.Equal(t, v, again)
		}
		if v, err := ParseRate(s); err == nil {
			again, err := ParseRate(v.String())
			require.NoError(t, err)
			require.Equal(t, v, again)
		}
		if v, err := ParsePercent(s); err == nil {
			again, err := ParsePercent(v.String())
			require.NoError(t, err)
			require.Equal(t, v, again)
		}
	})
}
