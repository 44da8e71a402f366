// Command jetstream is the object store of NATS JetStream as a peer of the benchmark: `serve DIR` runs a server that syncs each message to
// files below DIR, and prints its URL; `put URL DIR` brings the files of a directory there, and ends when all are acknowledged. It is no
// part of the product and imports nothing of it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	startTimeout = 10 * time.Second
	bucket       = "bench"
	puts         = 4 // files at a time
	putTimeout   = time.Hour
	// What may wait in the server: with less it refuses what several clients send at once while it syncs.
	buffered      = 1 << 30
	bufferedCount = 1 << 20
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "jetstream:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string, out io.Writer) error {
	switch {
	case len(args) == 2 && args[0] == "serve":
		return serve(ctx, args[1], out)
	case len(args) == 3 && args[0] == "put":
		return put(ctx, args[1], args[2])
	}
	return errors.New("want serve DIR, or put URL DIR")
}

// serve runs a server until ctx ends.
func serve(ctx context.Context, dir string, out io.Writer) error {
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, JetStream: true, StoreDir: dir,
		SyncAlways:            true, // what the server acknowledges is on disk, as a relay's is
		StreamMaxBufferedSize: buffered, StreamMaxBufferedMsgs: bufferedCount,
	})
	if err != nil {
		return fmt.Errorf("set up the server: %w", err)
	}
	srv.Start()
	defer srv.WaitForShutdown()
	defer srv.Shutdown()
	if !srv.ReadyForConnections(startTimeout) {
		return fmt.Errorf("the server is not ready after %s", startTimeout)
	}
	if _, err := fmt.Fprintln(out, srv.ClientURL()); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// put brings all files of a directory to the server, some at a time.
func put(ctx context.Context, url, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, putTimeout) // without one, each message has to be acknowledged within seconds
	defer cancel()
	conn, err := nats.Connect(url)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	store, err := js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: bucket, Storage: jetstream.FileStorage})
	if err != nil {
		return fmt.Errorf("make the object store: %w", err)
	}
	var files []string
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	work := make(chan string)
	errs := make([]error, puts)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { // ends when there is no more work
			for path := range work {
				errs[i] = errors.Join(errs[i], putFile(ctx, store, dir, path))
			}
		})
	}
	for _, path := range files {
		work <- path
	}
	close(work)
	wg.Wait()
	return errors.Join(errs...)
}

func putFile(ctx context.Context, store jetstream.ObjectStore, dir, path string) error {
	name, err := filepath.Rel(dir, path)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = store.Put(ctx, jetstream.ObjectMeta{Name: name}, f)
	return errors.Join(err, f.Close())
}
