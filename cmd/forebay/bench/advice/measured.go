// Package advice turns what forebay bench measured on a machine into what to set in the configuration. It is pure: measurements and the
// configuration in force go in, lines of advice come out; it reads no files, no clock and no network. It imports shard for its codings,
// units and internal/show for how values are written.
package advice

// Measured is what the parts of a bench found. A part that was not run is nil or empty. Rates are bytes a second.
type Measured struct {
	Disks   []Disk   `json:"disks"`
	Coding  *Coding  `json:"coding,omitempty"`
	Ingest  *Ingest  `json:"ingest,omitempty"`
	Network *Network `json:"network,omitempty"`
	Targets []Target `json:"targets"`
}

// The roles of a disk.
const (
	RoleStore  = "store"
	RoleLedger = "ledger"
)

// Disk is one directory of the relay and the disk below it.
type Disk struct {
	Role       string `json:"role"` // store, or ledger for the data directory
	Path       string `json:"path"`
	Device     string `json:"device"` // equal for directories that are lost together
	FileSystem string `json:"file_system"`
	InMemory   bool   `json:"in_memory"` // tmpfs: nothing in it survives a power cut
	SizeBytes  int64  `json:"size_bytes"`
	FreeBytes  int64  `json:"free_bytes"`
	OwnBytes   int64  `json:"own_bytes"` // what the store or ledger takes of it now
	// TableBytes is how large the files were that Write made, each of them fsynced, as a store's tables are.
	TableBytes int64   `json:"table_bytes"`
	Write      float64 `json:"write_bytes_per_second"`
	Read       float64 `json:"read_bytes_per_second"` // past the page cache, where the file system lets go of it
	// Together is what this store wrote while all others did the same; 0 where there is one store.
	Together float64 `json:"together_write_bytes_per_second"`
	SyncP50  float64 `json:"fsync_p50_seconds"` // of 4 KiB that are appended
	SyncP99  float64 `json:"fsync_p99_seconds"`
}

// Coding is how fast this machine codes and digests segments of 8 MiB. Rates are of payload.
type Coding struct {
	Coding     string  `json:"coding"`
	Cores      int     `json:"cores"`
	EncodeCore float64 `json:"encode_core_bytes_per_second"`
	EncodeAll  float64 `json:"encode_all_bytes_per_second"`
	DigestCore float64 `json:"digest_core_bytes_per_second"` // BLAKE3-256 of blocks of 1 MiB
	DigestAll  float64 `json:"digest_all_bytes_per_second"`
}

// Ingest is what a relay on these disks acknowledged to one sender on the same machine.
type Ingest struct {
	Coding       string  `json:"coding"`
	Large        float64 `json:"large_bytes_per_second"`
	LargeBytes   int64   `json:"large_bytes"`
	Small        float64 `json:"small_objects_per_second"`
	SmallObjects int64   `json:"small_objects"`
	SmallSize    int64   `json:"small_object_bytes"`
	// Busy is the part of all cores that large objects took, sender and relay together; 0 to 1.
	Busy float64 `json:"busy_ratio"`
}

// Network is the way from this machine to a relay.
type Network struct {
	Relay    string  `json:"relay"`
	TripP50  float64 `json:"round_trip_p50_seconds"`
	TripP99  float64 `json:"round_trip_p99_seconds"`
	Upload   float64 `json:"upload_bytes_per_second"`
	Uploaded int64   `json:"uploaded_bytes"`
}

// Target is what a trial of a target found.
type Target struct {
	Name    string  `json:"target"`
	Type    string  `json:"type"`
	Where   string  `json:"where"`
	Device  string  `json:"device"` // of a directory; "" of others
	Confirm string  `json:"confirm"`
	Write   float64 `json:"write_bytes_per_second"`
	Read    float64 `json:"read_bytes_per_second"`
	Small   float64 `json:"small_objects_per_second"`
	Bytes   int64   `json:"bytes"` // of the content that was written
}
