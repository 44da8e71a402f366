package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"forebay/internal/operator"
	"forebay/internal/show"
	"forebay/proto"
)

func newVerify(c *cli) *cobra.Command {
	var f relayFlags
	var deep, repair, wiped bool
	cmd := c.verb("verify LINK [--deep] [--repair [--wiped]]", "Compare a link's target with the record of what is on it", cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
		cl, err := f.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		if wiped {
			if !repair || deep {
				return usagef("--wiped is for --repair alone: nothing is left to be compared")
			}
			return c.beginAnew(ctx, cl, args[0], f.json)
		}
		q := url.Values{}
		if deep {
			q.Set("deep", "1")
		}
		if repair {
			q.Set("repair", "1")
		}
		return c.verify(ctx, cl, args[0], q, f.json)
	})
	cmd.Flags().BoolVar(&deep, "deep", false, "read and compare the content too")
	cmd.Flags().BoolVar(&repair, "repair", false, "flush again what differs")
	cmd.Flags().BoolVar(&wiped, "wiped", false, "the target was wiped or exchanged: take it for a new one and fill it again")
	return f.add(cmd, true)
}

// beginAnew has a target that was wiped filled again.
func (c *cli) beginAnew(ctx context.Context, cl *operator.Client, link string, asJSON bool) error {
	if err := cl.Post(ctx, operator.LinkPath(link, "anew"), nil, nil, nil); err != nil {
		return err
	}
	if asJSON {
		c.printf("{\"done\":true}\n")
		return nil
	}
	c.printf("link %s begins anew: all that the cache and the nodes have is sent to its target again. Follow it with forebay wait %s --for confirm\n", link, link)
	return nil
}

// verify prints the differences as they are found; JSON is one object a line, as the relay sends it.
func (c *cli) verify(ctx context.Context, cl *operator.Client, link string, q url.Values, asJSON bool) error {
	p := c.progress()
	defer p.Close()
	bar := p.Start("verifying", show.InObjects)
	var last proto.VerifyLine
	found := int64(0)
	err := cl.Stream(ctx, operator.LinkPath(link, "verify"), q, func(raw json.RawMessage) error {
		last = proto.VerifyLine{}
		if err := json.Unmarshal(raw, &last); err != nil {
			return fmt.Errorf("answer of the relay: %w", err)
		}
		if last.Bytes > 0 {
			bar.Note(show.Bytes(last.Bytes) + " read")
		}
		if last.Objects > 0 || last.Bytes > 0 {
			bar.Set(last.Objects, last.Total)
		}
		if last.Problem != "" {
			found++
		}
		if asJSON {
			c.printf("%s\n", raw)
		} else if last.Problem != "" {
			c.printf("%s\n", verifyText(last))
		}
		return nil
	})
	if err != nil {
		return err
	}
	switch found = max(found, last.Differences); {
	case last.Error != "":
		return fmt.Errorf("verify of link %s: %s", link, last.Error)
	case !last.Done:
		return errors.New("the relay ended the verify early: see its log, then try again")
	case found > 0:
		return partly("link %s: %s in %s, listed above", link, show.Things(found, "difference"), show.Things(last.Objects, "object"))
	}
	bar.Finish()
	return nil
}

func verifyText(l proto.VerifyLine) string {
	text := l.Problem + "  " + show.Name(l.Path)
	if l.Detail != "" {
		text += "  " + show.Text(l.Detail)
	}
	if l.Repair != "" {
		text += "  (" + show.Text(l.Repair) + ")"
	}
	return text
}
