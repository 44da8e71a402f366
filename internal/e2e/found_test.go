package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/internal/figures"
	"forebay/internal/servers"
	"forebay/proto"
)

// What targets check says of a thing that a target can do, or cannot.
const (
	byMove, byPut      = "whole objects by a move", "whole objects by a put"
	goesOn, anew       = "goes on after a break", "begins anew after a break"
	keeps, keepsNot    = "can be kept for history", "without history"
	reuses, sendsWhole = "is not sent again", "goes through the relay whole"
	once, notOnce      = "yes", "no: two relays"
)

// backupServer is one that a relay is told of, and what is to be found there.
type backupServer struct {
	name, driver string                    // the target's type
	target       func(t *testing.T) string // in YAML's flow style; nil: a directory on a disk of the test's own
	confirm      string
	// What the steps of the trial say: probe, write, create once, unchanged parts, replace.
	whole, break_, create, parts, past string
}

// backupServers are those that can be had here, each of its own make.
func backupServers() []backupServer {
	bucketOf := func(start func(*testing.T) *servers.S3) func(*testing.T) string {
		return func(t *testing.T) string { return newBucket(t, start(t)).target() }
	}
	minio := func(drives int) func(*testing.T) *servers.S3 {
		return func(t *testing.T) *servers.S3 { return servers.MinIO(t, drives) }
	}
	rclone := func(remote func(t *testing.T) (name string, settings map[string]string)) func(*testing.T) string {
		return func(t *testing.T) string {
			driver := rcloneDriver(t) // first: without it nothing is started
			name, settings := remote(t)
			var given []string
			for k, v := range settings {
				file := filepath.Join(t.TempDir(), k)
				require.NoError(t, os.WriteFile(file, []byte(v+"\n"), 0o600))
				given = append(given, fmt.Sprintf("%s_file: %q", k, file))
			}
			return fmt.Sprintf("type: rclone, remote: %q, command: [%q], allow_partial: true, settings: {%s}", name, driver, strings.Join(given, ", "))
		}
	}
	return []backupServer{
		{"xfs", "dir", nil, "reread", byMove, goesOn, once, reuses, keeps},
		{"versitygw", "s3", bucketOf(servers.Versitygw), "ack", byPut, goesOn, once, reuses, keeps},
		{"MinIO, one drive", "s3", bucketOf(minio(1)), "ack", byPut, goesOn, once, reuses, keeps},
		{"MinIO, four drives", "s3", bucketOf(minio(4)), "ack", byPut, goesOn, once, reuses, keeps},
		{"OpenSSH", "sftp", func(t *testing.T) string { server := servers.OpenSSH(t); return sshAt(t, server, server.Addr).target() },
			"sync", byMove, goesOn, once, sendsWhole, keeps},
		{"OpenSSH without fsync, posix-rename and statvfs", "sftp", func(t *testing.T) string {
			server := servers.OpenSSH(t, "fsync", "posix-rename", "statvfs")
			return sshAt(t, server, server.Addr).target()
		}, "ack", byMove, goesOn, once, sendsWhole, keeps},
		{"forebay-sample-driver", "process", func(t *testing.T) string {
			return fmt.Sprintf("type: process, command: [%q], settings: {path: %q}", sampleDriver(t), t.TempDir())
		}, "sync", byMove, goesOn, notOnce, sendsWhole, keepsNot},
		{"Apache, WebDAV", "rclone", rclone(func(t *testing.T) (string, map[string]string) {
			return fmt.Sprintf(":webdav,url='http://%s',vendor=other:/", servers.Apache(t).Addr), nil
		}), "ack", byMove, anew, notOnce, sendsWhole, keepsNot},
		{"samba, SMB", "rclone", rclone(func(t *testing.T) (string, map[string]string) {
			s := servers.Samba(t)
			return fmt.Sprintf(":smb,host='%s',port=%s,user='%s':%s", s.Host, s.Port, s.User, s.Share), map[string]string{"pass": s.Password}
		}), "ack", byMove, anew, notOnce, sendsWhole, keepsNot},
		{"versitygw, by rclone", "rclone", rclone(func(t *testing.T) (string, map[string]string) {
			b := newBucket(t, servers.Versitygw(t))
			return fmt.Sprintf(":s3,provider=Other,endpoint='%s',access_key_id=%s,region=us-east-1:%s", b.server.Endpoint(), b.server.Access, b.name),
				map[string]string{"secret_access_key": b.server.Secret}
		}), "ack", byPut, anew, notOnce, sendsWhole, keepsNot},
	}
}

// What each real server can do is found out by targets check, as an operator would, and is what the table of drivers and the documentation
// say. With -report, make targets publishes it.
func TestTargetsAsFound(t *testing.T) {
	t.Parallel()
	all := backupServers()
	found := make([]proto.TargetInfo, len(all))
	t.Run("servers", func(t *testing.T) {
		for i, b := range all {
			t.Run(b.name, func(t *testing.T) {
				if *reportDir == "" {
					t.Parallel() // else one after the other: their speed is published
				}
				found[i] = b.found(t)
			})
		}
	})
	r := figures.Report{Layer: "capabilities", Command: "make targets REPORT=docs/targets", Table: &figures.Table{Columns: []string{
		"server (type of target)", "confirm", "whole objects by a", "a large object goes on after a break", "what did not change of it stays there", "history",
		"made once only", "tells free space", "in the journal alone, or as copies", "MB/s written", "MB/s read", "small objects/s", "notes",
	}}}
	for i, b := range all {
		r.Table.Rows = append(r.Table.Rows, b.row(found[i]))
	}
	out, err := exec.CommandContext(t.Context(), program, "targets", "drivers", "--json").Output()
	require.NoError(t, err)
	var table []struct{ Device, Protocol, Type, Tested string }
	require.NoError(t, json.Unmarshal(out, &table), "%s", out)
	for _, row := range table {
		if row.Tested == "" {
			r.NotCovered = append(r.NotCovered, fmt.Sprintf("%s by %s (type %s): nothing of that make was tried", row.Device, row.Protocol, row.Type))
		}
	}
	publish(t, r)
}

// found tries the server.
func (b backupServer) found(t *testing.T) proto.TargetInfo {
	sp := spec{targets: []string{"found"}}
	if b.target != nil {
		sp = spec{buckets: map[string]string{"found": b.target(t)}}
	}
	s := newSite(t, sp)
	if b.target == nil && s.onSharingDisk("found", 256<<20) == nil {
		t.Skip("no disk can be made here")
	}
	s.startRelay()
	out := s.does("targets", "check", "found", "--json")
	var info proto.TargetInfo
	require.NoError(t, json.Unmarshal([]byte(out), &info), "%s", out)
	require.True(t, info.OK, "%s", out)
	require.NotNil(t, info.Trial)
	assert.Equal(t, b.confirm, info.Trial.Confirm, "%s", out)
	assert.Equal(t, b.driver, info.Type)
	for _, step := range info.Trial.Steps {
		assert.True(t, step.OK, "%s: %s", step.Name, step.What)
	}
	for step, says := range map[string]string{"probe": b.whole, "write": b.break_, "create once": b.create, "unchanged parts": b.parts, "replace": b.past} {
		assert.Contains(t, said(info, step), says, "%s", step)
	}
	return info
}

// said is what a step of a trial said, "" when there was no such step.
func said(info proto.TargetInfo, step string) string {
	for _, s := range info.Trial.Steps {
		if s.Name == step {
			return s.What
		}
	}
	return ""
}

// row is a line of the page; without a name when the server was not tried.
func (b backupServer) row(info proto.TargetInfo) []string {
	if info.Trial == nil {
		return nil
	}
	yes := func(step, says string) string {
		if strings.Contains(said(info, step), says) {
			return "yes"
		}
		return "no"
	}
	goesOnAt := "no, it begins anew"
	if _, at, ok := strings.Cut(said(info, "write"), goesOn+", "); ok {
		goesOnAt = at
	}
	free := "yes"
	if info.Free < 0 {
		free = "no"
	}
	_, lacks, _ := strings.Cut(said(info, "symlinks, hard links, directories"), ": ")
	rate := func(v float64) string { return fmt.Sprintf("%.0f", v) }
	return []string{
		b.name + " (" + b.driver + ")", info.Trial.Confirm, strings.TrimPrefix(b.whole, "whole objects by a "), goesOnAt, yes("unchanged parts", reuses), yes("replace", keeps),
		yes("create once", once), free, lacks, rate(info.Trial.WriteBytesPerSecond / 1e6), rate(info.Trial.ReadBytesPerSecond / 1e6), rate(info.Trial.SmallObjectsPerSecond),
		strings.Join(info.Notes, "; "),
	}
}
