package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Latency is what a fio job of reads and writes found: how long 99 of 100 took at most, from the submission to the completion.
type Latency struct {
	Read, Write time.Duration
	Ran         time.Duration
	IOs         int64
}

// ParseFio reads what fio prints with --output-format=json, for its first job. What stands before the JSON (fio says there why it ended
// early) is passed over.
func ParseFio(out []byte) (l Latency, err error) {
	type way struct {
		IOs  int64 `json:"total_ios"`
		Clat struct {
			Percentile map[string]int64 `json:"percentile"`
		} `json:"clat_ns"`
		Runtime int64 `json:"runtime"` // ms
	}
	var report struct {
		Jobs []struct {
			Read  way `json:"read"`
			Write way `json:"write"`
		} `json:"jobs"`
	}
	begin := bytes.IndexByte(out, '{')
	if begin < 0 {
		return l, fmt.Errorf("fio printed no JSON: %q", out)
	}
	if err := json.NewDecoder(bytes.NewReader(out[begin:])).Decode(&report); err != nil {
		return l, fmt.Errorf("fio's report: %w", err)
	}
	if len(report.Jobs) == 0 {
		return l, errors.New("fio's report has no job")
	}
	j := report.Jobs[0]
	const p99 = "99.000000"
	l.Read, l.Write = time.Duration(j.Read.Clat.Percentile[p99]), time.Duration(j.Write.Clat.Percentile[p99])
	l.Ran, l.IOs = time.Duration(max(j.Read.Runtime, j.Write.Runtime))*time.Millisecond, j.Read.IOs+j.Write.IOs
	if l.Read <= 0 || l.Write <= 0 {
		return l, fmt.Errorf("fio's report has no 99th percentile of reads and of writes: %d operations", l.IOs)
	}
	return l, nil
}
