package main

import (
	"context"
	"errors"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"forebay/flush"
	"forebay/internal/operator"
	"forebay/internal/show"
	"forebay/proto"
)

func newVersions(c *cli) *cobra.Command {
	var f relayFlags
	var from sourceFlags
	cmd := c.verb("versions LINK PATH", "All versions that a link's target has of an object; with --from and PATH alone, from the target alone", cobra.RangeArgs(1, 2), func(ctx context.Context, args []string) error {
		if (from.from != "") != (len(args) == 1) {
			return usagef("name a LINK and a PATH, or --from F and a PATH")
		}
		path := unquoted(args[len(args)-1])
		if from.from == "" {
			return ask(ctx, c, &f, get(operator.LinkPath(args[0], "versions"), url.Values{"path": {path}}), c.printVersions)
		}
		s, err := from.open(ctx, c)
		if err != nil {
			return err
		}
		v, err := flush.ListVersions(ctx, s.journal, path, c.now(), 0)
		if err = errors.Join(err, s.target.Close()); err != nil {
			return err
		}
		if f.json {
			return c.encodeJSON(v)
		}
		return c.printVersions(v)
	})
	from.addPlace(cmd)
	return f.add(cmd, true)
}

func (c *cli) printVersions(v proto.PathVersions) error {
	var rows [][]string
	for _, x := range v.Versions {
		digest := x.Digest
		if len(digest) > 16 {
			digest = digest[:16]
		}
		rows = append(rows, []string{strconv.FormatUint(uint64(x.Version), 10), x.State, x.Kind, show.Bytes(x.Size), orDash(digest), x.Mtime, orDash(x.AckedAt), orDash(x.EndedAt), orDash(x.KeptUntil)})
	}
	c.table([]string{"version", "state", "kind", "size", "digest", "mtime", "acknowledged", "ended", "kept until"}, rows)
	return nil
}
