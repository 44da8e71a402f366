package main

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"forebay/config"
)

// logging is a daemon's log: its level can change while it runs.
type logging struct {
	zerolog.Logger
	level *atomic.Int32
}

// newLogging writes to standard error: for people on a terminal, else JSON, unless the configuration says which.
func (c *cli) newLogging(cfg config.Log) (logging, error) {
	l := logging{level: new(atomic.Int32)}
	if err := l.set(cfg.Level); err != nil {
		return l, err
	}
	out := zerolog.New(c.errs)
	if cfg.Format == "console" || cfg.Format == "auto" && c.errTerminal {
		out = zerolog.New(zerolog.ConsoleWriter{Out: c.errs, TimeFormat: time.DateTime, NoColor: !c.errTerminal})
	}
	l.Logger = out.With().Timestamp().Logger().Sample(levelGate{l.level})
	return l, nil
}

// set changes the level.
func (l logging) set(level string) error {
	v, err := zerolog.ParseLevel(level)
	if err != nil {
		return fmt.Errorf("log level %q: %w", level, err)
	}
	l.level.Store(int32(v))
	return nil
}

// levelGate lets through what is at or over the level now.
type levelGate struct{ level *atomic.Int32 }

// Sample implements zerolog.Sampler.
func (g levelGate) Sample(level zerolog.Level) bool { return int32(level) >= g.level.Load() }
