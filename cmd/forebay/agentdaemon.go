package main

import (
	"context"
	"strings"
	"sync"

	"forebay/agent"
	"forebay/config"
)

// agentDaemon runs an agent and, when a changed file asks for it, another one in its place: what an agent announces and how
// it works is settled when it is made, and all that it knows is on disk.
type agentDaemon struct {
	log  logging
	load func() (*config.Agent, error)
	make func(*config.Agent) (*agent.Agent, error)

	mu     sync.Mutex
	cfg    *config.Agent // in force
	agent  *agent.Agent
	notice string        // what its status says of the configuration
	next   *config.Agent // for which the agent is being ended
	end    func()        // ends the agent that runs
}

// run works until ctx ends or an agent fails.
func (d *agentDaemon) run(ctx context.Context) error {
	for {
		life, end := context.WithCancel(ctx)
		d.mu.Lock()
		a := d.agent
		d.end = end
		if d.next != nil { // asked for before the agent ran
			end()
		}
		d.mu.Unlock()
		err := a.Run(life)
		end()
		if err != nil || ctx.Err() != nil {
			return err
		}
		if err := d.exchange(); err != nil {
			return err
		}
	}
}

// exchange makes an agent with the new configuration, or, where it cannot work, with the old one again.
func (d *agentDaemon) exchange() (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := d.next
	d.next = nil
	a, err := d.make(next)
	if err == nil {
		d.cfg = next
		d.log.Info().Msg("configuration reloaded: the agent goes on with it")
	} else {
		d.notice = notTaken(err)
		d.log.Error().Msg(d.notice)
		if a, err = d.make(d.cfg); err != nil {
			return err
		}
	}
	a.SetNotice(d.notice)
	d.agent = a
	return nil
}

// reload takes a changed file over. A bad one leaves the one before in force and is a problem until a good one is read; what
// only a new process can change is said.
func (d *agentDaemon) reload() {
	d.mu.Lock()
	defer d.mu.Unlock()
	next, err := d.load()
	if err != nil {
		d.notice = notTaken(err)
		d.log.Error().Msg(d.notice)
		d.agent.SetNotice(d.notice)
		return
	}
	next, keys, changed := config.AgentTakeOver(d.cfg, next)
	d.notice = ""
	if len(keys) > 0 {
		d.notice = "a restart is needed for " + strings.Join(keys, ", ")
		d.log.Warn().Msg(d.notice)
	}
	_ = d.log.set(next.Log.Level) // was checked with the file
	d.agent.SetNotice(d.notice)
	if d.next == nil && !changed {
		d.cfg = next
		d.log.Info().Msg("configuration reloaded")
		return
	}
	d.next = next
	if d.end != nil {
		d.end()
	}
}

func notTaken(err error) string {
	return "the changed configuration was not taken, the one before stays in force: " + err.Error()
}
