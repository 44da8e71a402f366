// Command forebay-sample-driver is a driver process to learn from: it keeps a mirror in a directory, with nothing but what the contract
// asks for. A relay starts it (target type process), or it serves at the other end of a serial line (target type serial). It imports the
// contract (flush/target) and the driver's half of the protocol, as any other driver in Go would.
//
//	targets:
//	  shelf: {type: process, command: [/usr/lib/forebay/forebay-sample-driver], settings: {path: /mnt/shelf}}
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"forebay/flush/target"
	"forebay/flush/target/process/line"
	"forebay/flush/target/process/serve"
	"forebay/proto"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is the program; its result the exit code.
func run(args []string, in io.Reader, out, say io.Writer) int {
	flags := flag.NewFlagSet("forebay-sample-driver", flag.ContinueOnError)
	flags.SetOutput(say)
	device := flags.String("line", "", "serve on this serial `device` instead of standard input and output")
	baud := flags.Int("baud", 115200, "bits a second on the line")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	var options serve.Options
	if *device != "" {
		l, err := line.Open(*device, *baud)
		if err != nil {
			_, _ = fmt.Fprintln(say, "forebay-sample-driver:", err) // there is nobody else to tell
			return 1
		}
		defer l.End()
		defer context.AfterFunc(ctx, l.End)() // a read from a line does not end by itself
		in, out, options.Line = l, l, true
	}
	err := serve.Serve(ctx, in, out, serve.Driver{Name: "sample", Version: "1", Open: open}, options)
	if err != nil && ctx.Err() == nil {
		_, _ = fmt.Fprintln(say, "forebay-sample-driver:", err) // there is nobody else to tell
		return 1
	}
	return 0
}

// open opens the mirror that the relay's settings describe.
func open(_ context.Context, o serve.Opening) (target.Target, error) {
	for key := range o.Settings {
		if key != "path" {
			return nil, proto.Errorf(proto.ClassPermanent, "setting %q is not known: there is path, the directory of the target", key)
		}
	}
	path := o.Settings["path"]
	if path == "" {
		return nil, proto.Errorf(proto.ClassPermanent, "the setting path is missing: name the directory of the target")
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, proto.Errorf(proto.ClassTransient, "open %s: %w", path, err)
	}
	return newMirror(root, path, o), nil
}
