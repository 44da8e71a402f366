package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"forebay/internal/operator"
	"forebay/proto"
)

// The shape of what the demo starts.
const (
	clusterName  = "primary"
	datasetName  = "tree"
	linkName     = "tree-backup"
	targetName   = "backup"
	replicas     = 3
	dataShards   = 2
	parityShards = 1
)

// readyTime is how long a daemon may take from its start until it answers.
const readyTime = 60 * time.Second

// node is one agent with its replica.
type node struct {
	name    string
	root    string // its replica
	config  string
	address string // of its own status
	process *child
}

// cluster is what runs: a relay and the nodes.
type cluster struct {
	dir        string
	executable string
	env        []string
	spawner    *spawner
	onExit     func(*child)

	url    string // of the relay
	nats   string
	client *operator.Client
	relay  *child
	nodes  []*node
}

// path is a file or directory of the demo's own.
func (c *cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.dir}, elem...)...)
}

func (c *cluster) target() string { return c.path("target") }

// prepare chooses ports and writes the configuration files, such as an operator would.
func (c *cluster) prepare(capacity int64) error {
	addresses, err := freeAddresses(2 + replicas)
	if err != nil {
		return err
	}
	c.url, c.nats = "http://"+addresses[0], addresses[1]
	if c.client, err = operator.New(c.url); err != nil {
		return err
	}
	for _, dir := range []string{"logs", "target", "relay", "store-1", "store-2", "store-3"} {
		if err := os.Mkdir(c.path(dir), 0o755); err != nil {
			return err
		}
	}
	relay := fmt.Sprintf(`name: demo
data: %q
listen: %s
nats: {listen: %q}
cache:
  stores: [%q, %q, %q]
  coding: %d+%d
  capacity: %dKiB
  ballast: 16MiB
targets:
  %s: {type: dir, path: %q}
links:
  - name: %s
    from: %s/%s
    to: %s
    flush: {size: 64MiB, age: 2s}
    delete: {propagate: true}
`, c.path("relay"), addresses[0], c.nats, c.path("store-1"), c.path("store-2"), c.path("store-3"), dataShards, parityShards,
		capacity>>10, targetName, c.target(), linkName, clusterName, datasetName, targetName)
	if err := os.WriteFile(c.path("relay.yaml"), []byte(relay), 0o644); err != nil {
		return err
	}
	for i := range replicas {
		n := &node{name: fmt.Sprintf("node-%c", 'a'+i), address: addresses[2+i]}
		n.root, n.config = c.path("replica-"+n.name[5:]), c.path(n.name+".yaml")
		agent := fmt.Sprintf(`node: %s
cluster: %s
relays: [%s]
data: %q
listen: %s
datasets:
  - name: %s
    path: %q
`, n.name, clusterName, c.url, c.path("agent-"+n.name[5:]), n.address, datasetName, n.root)
		if err := os.WriteFile(n.config, []byte(agent), 0o644); err != nil {
			return err
		}
		if err := os.Mkdir(c.path("agent-"+n.name[5:]), 0o755); err != nil {
			return err
		}
		c.nodes = append(c.nodes, n)
	}
	return nil
}

// startRelay starts the relay and waits until it answers.
func (c *cluster) startRelay(ctx context.Context) (err error) {
	c.relay, err = c.start("relay", "relay", "--config", c.path("relay.yaml"))
	if err != nil {
		return err
	}
	return c.await(ctx, "the relay to answer at "+c.url, func(ctx context.Context) bool { return c.client.Healthy(ctx) == nil })
}

// startNode starts a node's agent.
func (c *cluster) startNode(n *node) (err error) {
	n.process, err = c.start(n.name, "agent", "--config", n.config)
	return err
}

func (c *cluster) start(name string, args ...string) (*child, error) {
	return c.spawner.start(name, c.executable, args, c.env, c.path("logs", name+".log"), c.onExit)
}

// awaitNodes waits until the relay has all of the nodes as alive.
func (c *cluster) awaitNodes(ctx context.Context, names ...string) error {
	return c.await(ctx, "the relay to see "+strings.Join(names, ", "), func(ctx context.Context) bool {
		s, err := c.client.Status(ctx)
		if err != nil {
			return false
		}
		alive := 0
		for _, n := range s.Nodes {
			for _, name := range names {
				if n.Node == name && n.State == "alive" {
					alive++
				}
			}
		}
		return alive == len(names)
	})
}

// await polls until ok.
func (c *cluster) await(ctx context.Context, what string, ok func(context.Context) bool) error {
	limited, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok(limited) {
			return nil
		}
		select {
		case <-limited.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("waited %s for %s; logs are in %s", readyTime, what, c.path("logs"))
		case <-tick.C:
		}
	}
}

// find returns the node of that name.
func (c *cluster) find(name string) (*node, error) {
	for _, n := range c.nodes {
		if n.name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("the relay names a node %q that the demo did not start", name)
}

// names lists the nodes.
func (c *cluster) names() (out []string) {
	for _, n := range c.nodes {
		out = append(out, n.name)
	}
	return out
}

// roots lists the replicas.
func (c *cluster) roots() (out []string) {
	for _, n := range c.nodes {
		out = append(out, n.root)
	}
	return out
}

// stop ends the agents and then the relay, as an operator would.
func (c *cluster) stop(ctx context.Context) error {
	var errs []error
	for _, n := range c.nodes {
		if n.process != nil && n.process.alive() {
			errs = append(errs, n.process.stop(ctx))
		}
	}
	return errors.Join(append(errs, c.relay.stop(ctx))...)
}

// object names a path of the dataset as the operators' API does.
func object(path string) string {
	return proto.Dataset{Cluster: clusterName, Name: datasetName}.String() + "/" + path
}

// freeAddresses finds loopback ports that nobody has now.
func freeAddresses(n int) ([]string, error) {
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer func() { _ = l.Close() }() // all are held until all are found
		out = append(out, l.Addr().String())
	}
	return out, nil
}
