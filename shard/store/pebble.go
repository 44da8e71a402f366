package store

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// format is the newest format of pebble that we use. Raising it makes stores unreadable for older releases (I19). Excise
// needs FormatVirtualSSTables; this one adds a checksum to the table's footer.
const format = pebble.FormatTableFormatV6

// lowest is the level into which tables that overlap nothing are ingested.
const lowest = 6

// pebbleOptions returns the options of every store. mustExist is false only while a store is being initialised; corrupt and
// fatal are told what pebble would otherwise end the process for.
func pebbleOptions(fs vfs.FS, mustExist bool, openFiles int, corrupt func(error), fatal func(error)) *pebble.Options {
	log := logger{fatal}
	opts := &pebble.Options{
		FS:                 fs,
		ErrorIfNotExists:   mustExist,
		FormatMajorVersion: format,
		// Tables are written once; merging them would write them again and put several segments into one.
		DisableAutomaticCompactions: true,
		// One missing or short table otherwise keeps the whole store shut.
		DisableConsistencyCheck: true,
		DisableTableStats:       true,
		// Nothing is written but by Ingest and Excise, which go to MANIFEST.
		DisableWAL:          true,
		MemTableSize:        64 << 10,
		MaxOpenFiles:        openFiles,
		MaxManifestFileSize: 16 << 20,
		// Next to nothing: what is read is read once.
		CacheSize: 256 << 10,
		Logger:    log,
		EventListener: &pebble.EventListener{
			// The default ends the process.
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				corrupt(fmt.Errorf("%s: %w", info.Path, info.Details))
			},
		},
	}
	for i := range opts.Levels {
		opts.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.NoCompression } // coded data; often compressed at its source
		opts.Levels[i].BlockSize = chunkLen
		opts.Levels[i].IndexBlockSize = 64 << 10
	}
	opts.EnsureDefaults() // before MakeWriterOptions
	return opts
}

// logger stands between pebble and the process. Pebble calls Fatalf where its state in memory can no longer be trusted, for
// example after a MANIFEST write that may or may not have reached the disk. Going on after a return would ruin the store;
// ending the process would take the other stores along. So the goroutine ends here, the store counts as failed, and it is
// opened again from what is on disk.
type logger struct{ fatal func(error) }

func (logger) Infof(string, ...any)  {}
func (logger) Errorf(string, ...any) {}

func (l logger) Fatalf(format string, args ...any) {
	l.fatal(fatalError(format, args))
	runtime.Goexit()
}

// fatalError keeps the error among args in the chain, so that a full disk is recognised.
func fatalError(format string, args []any) error {
	text := fmt.Sprintf(format, args...)
	for _, a := range args {
		if err, ok := a.(error); ok {
			return fmt.Errorf("pebble gave up: %s: %w", text, err)
		}
	}
	return errors.New("pebble gave up: " + text)
}
