package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// drainTime is how long a daemon may take to end after SIGTERM.
const drainTime = 30 * time.Second

// echoTime is how long after a signal another one is taken for its echo: timeout(1) and shells send one to the process and
// one to its group.
const echoTime = time.Second

// service is a daemon as this package runs it.
type service struct {
	name string
	log  logging
	// run works until ctx ends and calls ready once it serves.
	run func(ctx context.Context, ready func()) error
	// reload reads the configuration again.
	reload func()
}

// serve runs a daemon until it ends by itself or a signal comes: SIGTERM and SIGINT end it in good order, within drainTime;
// a second one, unless it is an echo of the first, ends it at once. SIGHUP reloads. systemd is told of all that.
func serve(parent context.Context, s service) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	ended := make(chan error, 1)
	go func() { // ends when run does
		ended <- s.run(ctx, func() {
			s.log.Info().Int("pid", os.Getpid()).Msg(s.name + " is ready")
			s.notify(sd.SdNotifyReady)
		})
	}()
	var deadline, echo <-chan time.Time
	for {
		select {
		case err := <-ended:
			if err != nil && !(ctx.Err() != nil && errors.Is(err, context.Canceled)) {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			s.log.Info().Msg(s.name + " has ended")
			return nil
		case <-echo:
			echo = nil
		case <-deadline:
			return fmt.Errorf("%s did not end within %s and is cut off; what was acknowledged is durable", s.name, drainTime)
		case sig := <-signals:
			switch {
			case sig == syscall.SIGHUP:
				s.notify(reloading())
				s.reload()
				s.notify(sd.SdNotifyReady)
			case echo != nil:
			case deadline != nil:
				return fmt.Errorf("%s: ended by a second %s", s.name, sig)
			default:
				s.log.Info().Stringer("signal", sig).Msg(s.name + " is ending")
				s.notify(sd.SdNotifyStopping)
				deadline, echo = time.After(drainTime), time.After(echoTime)
				cancel()
			}
		}
	}
}

// notify tells systemd, where it started the process and asked for it.
func (s service) notify(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		s.log.Warn().Err(err).Msg("cannot tell systemd")
	}
}

// reloading is the message of a reload, with the instant that systemd wants beside it.
func reloading() string {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return sd.SdNotifyReloading
	}
	return fmt.Sprintf("%s\nMONOTONIC_USEC=%d", sd.SdNotifyReloading, ts.Nano()/1000)
}
