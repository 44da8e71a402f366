package index

import (
	"encoding/binary"
	"strings"
)

// Keys. Root is a number of four bytes, big endian as all numbers here; dir and name are the two halves of a path, split
// at its last slash, so that the direct children of a directory stand side by side in order of their names. Names contain
// no NUL, so the key is unambiguous.
//
//	'v'                                          format of the database, one byte
//	'n' name                                     number of the root of that name
//	'c' root                                     root row: id, identity, counts
//	'e' root dir 0x00 name                       entry
//	's' root state(1) dir 0x00 name              entries of each state but Settled, empty value
//	'd' root due(8) path                         the queue, empty value; due has its sign bit flipped so that it sorts
//	'f' root first seen(8) path                  unsent entries by age, empty value
//	'l' root dev(8) ino(8)                       path of the leader of a hard-linked inode
//	'g' root dir 0x00 name                       suspects of the running scan, empty value
const (
	kindFormat  = 'v'
	kindName    = 'n'
	kindRow     = 'c'
	kindEntry   = 'e'
	kindState   = 's'
	kindDue     = 'd'
	kindFirst   = 'f'
	kindLeader  = 'l'
	kindSuspect = 'g'
)

// rootKinds are the kinds of key that belong to one root and start with kind and root.
var rootKinds = [...]byte{kindRow, kindEntry, kindState, kindDue, kindFirst, kindLeader, kindSuspect}

const prefixLen = 5 // kind and root

func prefix(kind byte, root uint32) []byte {
	return binary.BigEndian.AppendUint32(append(make([]byte, 0, 64), kind), root)
}

// split cuts a path at its last slash.
func split(path string) (dir, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

func appendPath(k []byte, path string) []byte {
	dir, name := split(path)
	k = append(append(k, dir...), 0)
	return append(k, name...)
}

// pathOf reads what appendPath wrote.
func pathOf(k []byte) string {
	dir, name, _ := strings.Cut(string(k), "\x00")
	return join(dir, name)
}

func entryKey(root uint32, path string) []byte { return appendPath(prefix(kindEntry, root), path) }

func stateKey(root uint32, s State, path string) []byte {
	return appendPath(append(prefix(kindState, root), byte(s)), path)
}

func suspectKey(root uint32, path string) []byte { return appendPath(prefix(kindSuspect, root), path) }

// timeKey is a key of kindDue or kindFirst. Flipping the sign bit sorts times before 1970 first.
func timeKey(kind byte, root uint32, ns int64, path string) []byte {
	k := binary.BigEndian.AppendUint64(prefix(kind, root), uint64(ns)^1<<63)
	return append(k, path...)
}

func splitTimeKey(k []byte) (ns int64, path string) {
	return int64(binary.BigEndian.Uint64(k[prefixLen:]) ^ 1<<63), string(k[prefixLen+8:])
}

func leaderKey(root uint32, dev, ino uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(prefix(kindLeader, root), dev), ino)
}

// after is the smallest key greater than k; end is the smallest key that does not start with k.
func after(k []byte) []byte { return append(k[:len(k):len(k)], 0) }

func end(k []byte) []byte {
	e := append([]byte(nil), k...)
	for i := len(e) - 1; i >= 0; i-- {
		if e[i]++; e[i] != 0 {
			return e[:i+1]
		}
	}
	return nil
}
