package relay

import (
	"fmt"
	"net"
	"sync"
	"time"

	"forebay/proto"
)

// twinShown is how long a refused second agent is shown as a problem: it says hello every few seconds as long as it is there.
const twinShown = 30 * time.Second

// maxRetired bounds the boots that are remembered; beyond it all are forgotten, and a copied agent is found out anew.
const maxRetired = 4096

// twins remembers second agents under one node name, and boots whose session another boot of the same agent took over: one
// that comes back is not a restart but a copy, as of a cloned machine.
type twins struct {
	mu      sync.Mutex
	refused map[string]twin // by cluster/node
	retired map[string]bool // Hello.Boot
}

type twin struct {
	at   time.Time
	what string
}

func (t *twins) retire(boot string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.retired == nil || len(t.retired) >= maxRetired {
		t.retired = map[string]bool{}
	}
	t.retired[boot] = true
}

func (t *twins) copied(boot string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.retired[boot]
}

// note remembers a refusal and reports whether it is news.
func (t *twins) note(node, what string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refused == nil {
		t.refused = map[string]twin{}
	}
	was, ok := t.refused[node]
	t.refused[node] = twin{now, what}
	return !ok || was.what != what
}

// list adds the second agents that were refused lately to the problems.
func (t *twins) list(f *finder, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for node, x := range t.refused {
		if now.Sub(x.at) > twinShown {
			delete(t.refused, node)
			continue
		}
		f.add("twin", proto.Red, "give one of them another node: name; a copied agent also needs an empty data: folder", "node %s: %s", node, x.what)
	}
}

// hostOf is an address without its port, which is another with each connection.
func hostOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

// refuseTwin refuses a second live agent under one node name before anything of it is written down. address is its own.
func (r *Relay) refuseTwin(h proto.Hello, address string, now time.Time) error {
	for _, s := range r.book.All() {
		if s.Cluster != h.Cluster || s.Node != h.Node || now.Sub(s.Seen) >= r.book.Suspicion() {
			continue
		}
		var what, do string
		switch {
		case s.Instance != h.Instance:
			what, do = "two agents must not share a node name", "change node: in one of them"
		case s.Boot != h.Boot && r.twins.copied(h.Boot):
			what, do = "its data folder is a copy of that agent's, or both use one", "give it a node: of its own and an empty data: folder"
		default:
			continue
		}
		shown := fmt.Sprintf("a second agent, from %s, calls itself so and is refused; the first is at %s: %s", hostOf(address), hostOf(s.Address), what)
		if r.twins.note(h.Cluster+"/"+h.Node, shown, now) {
			r.event("twin", fmt.Sprintf("node %s/%s: %s", h.Cluster, h.Node, shown), map[string]string{"node": h.Node, "cluster": h.Cluster})
		}
		return proto.Errorf(proto.ClassConflict, "node %s of cluster %s is an agent at %s already: %s; %s", h.Node, h.Cluster, s.Address, what, do)
	}
	return nil
}
