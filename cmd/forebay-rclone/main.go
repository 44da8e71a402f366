// Command forebay-rclone is a driver process for whatever rclone reaches: WebDAV, SMB, S3, HDFS, Swift, Azure Blob Storage, Google Cloud
// Storage, SFTP, and directories. It is a module of its own, so that rclone and all that it brings stay out of the relay, its memory and
// its list of dependencies. A relay starts it for a target of type rclone and tells it of its remote over the driver protocol: no command
// line and no file shows a secret.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	_ "github.com/rclone/rclone/backend/azureblob"
	_ "github.com/rclone/rclone/backend/googlecloudstorage"
	_ "github.com/rclone/rclone/backend/hdfs"
	_ "github.com/rclone/rclone/backend/local"
	_ "github.com/rclone/rclone/backend/s3"
	_ "github.com/rclone/rclone/backend/sftp"
	_ "github.com/rclone/rclone/backend/smb"
	_ "github.com/rclone/rclone/backend/swift"
	_ "github.com/rclone/rclone/backend/webdav"
	"github.com/rclone/rclone/fs"

	"forebay/flush/target/process/serve"
)

func main() { os.Exit(run(os.Stdin, os.Stdout, os.Stderr)) }

// run is the program; its result the exit code.
func run(in io.Reader, out, say io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	ctx, conf := fs.AddConfig(ctx)
	conf.LowLevelRetries = 2 // what failed is tried again by the flush, which knows what it means
	conf.UserAgent = "forebay-rclone"
	err := serve.Serve(ctx, in, out, serve.Driver{Name: "rclone", Version: "rclone " + fs.Version, Open: open}, serve.Options{})
	if err != nil && ctx.Err() == nil {
		_, _ = fmt.Fprintln(say, "forebay-rclone:", err) // there is nobody else to tell
		return 1
	}
	return 0
}
