package main

import (
	"context"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"forebay/internal/show"
	"forebay/proto"
)

func newWhere(c *cli) *cobra.Command {
	var f relayFlags
	cmd := c.verb("where CLUSTER/DATASET/PATH", "One object: versions, holders, upload, and what each link has done with it", cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
		return ask(ctx, c, &f, get("/v1/where", url.Values{"object": {unquoted(args[0])}}), func(w proto.Where) error {
			c.printWhere(w)
			return nil
		})
	})
	return f.add(cmd, true)
}

func (c *cli) printWhere(w proto.Where) {
	c.printf("object    %s\n", show.Name(w.Object))
	if v := w.Current; v != nil {
		cached := "not cached"
		if v.Cached {
			cached = "cached"
		}
		c.printf("current   version %d, %s of %s, mtime %s, acknowledged %s, %s\n", v.Version, v.Kind, show.Bytes(v.Size), orDash(v.Mtime), orDash(v.AckedAt), cached)
		if v.Digest != "" {
			c.printf("          digest %s\n", v.Digest)
		}
	} else {
		c.printf("current   none\n")
	}
	if u := w.Uploading; u != nil {
		by := "nobody just now: " + show.Text(u.Why)
		if u.Node != "" {
			by = u.Node + " (" + show.Name(u.Root) + ") under epoch " + u.Epoch
		}
		c.printf("upload    %s of %s%s acknowledged, sent by %s\n", show.Bytes(u.Acked), show.Bytes(u.Size), percent(u.Acked, u.Size), by)
	}
	if len(w.Holders) > 0 {
		c.printf("\n")
		var rows [][]string
		for _, h := range w.Holders {
			alive := "alive"
			if !h.Alive {
				alive = "away"
			}
			rows = append(rows, []string{h.Node, alive, h.State, show.Count(int64(h.Version)), show.Name(h.Root)})
		}
		c.table([]string{"holder", "node", "object", ">version", "root"}, rows)
	}
	if len(w.Links) > 0 {
		c.printf("\n")
		var rows [][]string
		for _, l := range w.Links {
			rows = append(rows, []string{l.Link, l.State, show.Count(int64(l.Version)), orDash(l.NextTry), l.Why})
		}
		c.table([]string{"link", "state", ">confirmed", "next try", "why"}, rows)
	}
}

// unquoted takes an object as lists print it: a name with a line break, or bytes that are no text, stands in quotes there. A
// name that only looks like that goes through as it is.
func unquoted(object string) string {
	if name, ok := unquote(object); ok {
		return name
	}
	if parts := strings.SplitN(object, "/", 3); len(parts) == 3 {
		if name, ok := unquote(parts[2]); ok {
			return parts[0] + "/" + parts[1] + "/" + name
		}
	}
	return object
}

func unquote(s string) (string, bool) {
	name, err := strconv.Unquote(s)
	return name, err == nil && show.Name(name) == s
}
