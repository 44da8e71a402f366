package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// FuzzDecoder feeds a reader with anything: it ends, with entries that are safe to use, and only whole files end well.
func FuzzDecoder(f *testing.F) {
	var p part
	_ = p.add(present("a", 1, 1))
	_ = p.add(Entry{Path: "b", Version: 2, State: StateDeleted})
	good := p.encode()
	f.Add(good)
	f.Add(good[:len(good)-3])
	f.Add((&part{}).encode())
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := newDecoder("f", false, bytes.NewReader(b))
		if err != nil {
			require.NotEmpty(t, proto.ClassOf(err))
			return
		}
		last := ""
		for {
			e, err := d.next()
			if errors.Is(err, io.EOF) {
				require.Equal(t, int64(len(b)), d.offset)
				return
			}
			if err != nil {
				require.Equal(t, proto.ClassCorrupt, proto.ClassOf(err))
				return
			}
			require.NoError(t, proto.CheckPath(e.Path))
			require.Greater(t, e.Path, last)
			last = e.Path
		}
	})
}

// FuzzFileName: a name that is understood is written the same way.
func FuzzFileName(f *testing.F) {
	f.Add(file{kind: kindDone, lo: 1, hi: 2, part: 3, count: 4, last: true}.name())
	f.Add("done--1-2-3-4-last")
	f.Fuzz(func(t *testing.T, name string) {
		if got, err := parseFile(name); err == nil {
			require.Equal(t, name, got.name())
		}
	})
}

// FuzzMark: no mark makes the reader fail in another way than with an error.
func FuzzMark(f *testing.F) {
	b, _ := json.Marshal(Owner{Format: 1, Prefix: []byte("x")})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, err := decodeMark("m", b); err == nil {
			require.Equal(t, Format, o.Format)
		}
	})
}

// BenchmarkMillion writes a million paths in batches of ten thousand, merging as a flush does, and reads them all.
func BenchmarkMillion(b *testing.B) {
	for b.Loop() {
		rec := newMemRecords()
		j, err := Open(b.Context(), rec, "root")
		require.NoError(b, err)
		v := proto.VersionID(0)
		for range 100 {
			es := make([]Entry, 10000)
			for i := range es {
				v++
				es[i] = present(fmt.Sprintf("dir%03d/sub/file-%07d", (int(v)*7919)%997, v), v, 100)
			}
			require.NoError(b, batch(b.Context(), j, es...))
			require.NoError(b, j.Compact(b.Context(), 0))
		}
		n := 0
		require.NoError(b, j.Each(b.Context(), "", func(Entry, *Entry) error { n++; return nil }))
		require.Equal(b, 1000000, n)
		var bytes int
		for _, f := range rec.files {
			bytes += len(f)
		}
		b.ReportMetric(float64(bytes)/1e6, "MB")
		b.ReportMetric(float64(len(rec.files)), "files")
	}
}
