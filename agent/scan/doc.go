// Package scan finds what changed in a root: it walks the tree beside the index, directory by directory, both sorted by
// name, and writes only differences. A completed scan is the truth on what a root holds; hints from package watch only
// make it look somewhere sooner. It stands between the file system and agent/index: it imports those two, fsmeta and
// proto, talks to no relay and reads no file's content.
//
// What it may conclude (I13):
//
//   - created and changed objects, from any look at a directory;
//   - gone, only at the end of a full scan, on a root of the remembered identity, for what a directory that was listed
//     without error no longer has, and that is still not there when the scan ends;
//   - nothing at all about what lies below a directory that could not be read, or below a mount point;
//   - nothing at all, and an error (Refused), when the root is missing, exchanged, or suddenly empty.
//
// Memory is bounded by the names of the largest directory, not by the number of objects.
package scan
