package disk

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
)

// BenchmarkStoreSegment applies segments of 1,000 new small objects with one link, by the pebble door over memory; an
// iteration is a segment.
func BenchmarkStoreSegment(b *testing.B) {
	led, ds, h, _ := benchLedger(b)
	b.ReportAllocs()
	seq := uint64(0)
	for b.Loop() {
		seq++
		require.NoError(b, led.Update(benchSegment(seq, ds, h)))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/object")
}

// BenchmarkConfirm confirms segments of 1,000 small objects.
func BenchmarkConfirm(b *testing.B) {
	led, ds, h, link := benchLedger(b)
	b.ReportAllocs()
	seq := uint64(0)
	for b.Loop() {
		b.StopTimer()
		seq++
		e := benchSegment(seq, ds, h)
		require.NoError(b, led.Update(e))
		vers := make([]proto.VersionID, len(e.Results))
		for i, r := range e.Results {
			vers[i] = r.Version
		}
		b.StartTimer()
		require.NoError(b, led.Update(&ledger.Confirm{Link: link, Versions: vers, NowNs: 5}))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/object")
}

func benchLedger(b *testing.B) (*Ledger, proto.DatasetID, proto.HolderID, ledger.LinkID) {
	b.Helper()
	led, err := Open(Config{Dir: "led", FS: vfs.NewMem()})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, led.Close()) })
	h := &ledger.RegisterHolder{Dataset: benchSet, Node: "node-a", Root: "/srv", Index: "i"}
	l := &ledger.SetLink{Name: "nas", From: benchSet, Target: "dir:/nas", Coalesce: true}
	require.NoError(b, led.Update(&ledger.Start{Relay: 1}, h, l))
	return led, h.Holder.Dataset, h.Holder.ID, l.Link.ID
}

func benchSegment(seq uint64, ds proto.DatasetID, h proto.HolderID) *ledger.StoreSegment {
	e := &ledger.StoreSegment{Seq: seq, Dataset: ds, Length: 8 << 20, Stored: 12 << 20, Placement: make([]byte, 120), NowNs: 1e18, Holder: h, Alive: []proto.HolderID{h}}
	for i := range 1000 {
		d := proto.Digest{byte(seq), byte(seq >> 8), byte(i), byte(i >> 8), 1}
		e.Pieces = append(e.Pieces, segment.Piece{
			Kind: segment.PieceObject, Path: fmt.Sprintf("some/folder/%06d/with a file %04d.txt", seq, i), Epoch: proto.Epoch{Generation: 1, Counter: seq*1000 + uint64(i)}, At: uint32(i) * 8000, Length: 8000, Blocks: []proto.Digest{d},
			Desc: &proto.Desc{Kind: proto.KindFile, Size: 8000, Digest: d, Meta: proto.Meta{Mode: 0o644, UID: 1000, GID: 1000, User: "user", Group: "users", MtimeNs: 1e18}},
		})
	}
	return e
}

var benchSet = proto.Dataset{Cluster: "primary", Name: "files"}
