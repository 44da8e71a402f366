package e2e

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/internal/baddisk"
	"forebay/internal/faultfs"
	"forebay/internal/operator"
	"forebay/internal/testnet"
)

// nobody is the ordinary user that daemons run as where a test asks for one.
const nobody = 65534

// spec describes a site. The zero value of a field is what most tests want.
type spec struct {
	links   []link
	nodes   []nodeSpec
	targets []string          // directories; default: those that links name
	buckets map[string]string // targets that are no directories: YAML's flow style, as "type: s3, bucket: media"

	ordinary  bool   // run relay and agents as an ordinary user, also when the tests run as root
	stores    int    // default 3
	cache     string // further lines of the relay's cache section, as "capacity: 1GiB"; default a capacity of 8 GiB
	nats      string // the relay's nats section, as `urls: ["nats://127.0.0.1:4222"]`; default an embedded one
	suspicion string // default 3s, as the program's
	proxied   bool   // agents reach the relay through proxies, one each
	networked bool   // relay and agents are hosts of a network of their own, where that can be made; else as proxied
	program   string // for relay and agents; default the one that all tests use
	log       string // level of all daemons' logs; default debug
	rate      int64  // of the link of each node in that network, in bits a second; 0: no limit
}

// link is a link of the relay's configuration.
type link struct {
	name, from, to string
	prefix         string
	more           string // further keys in YAML's flow style, as "flush: {age: 2s}, delete: {propagate: true}"
}

// nodeSpec is a node with its agent.
type nodeSpec struct {
	name     string
	cluster  string   // default primary
	datasets []string // a name that comes again is a further root of the dataset
	scan     string   // of its datasets; default auto
	more     string   // further lines of agent.yaml
	faulty   bool     // its roots lie on a disk that can be made to fail; needs root
	at       string   // where its one root is, which is there already; default a new directory of the site
}

// site is a relay and its agents.
type site struct {
	before uint64 // the last takeover before a test began to act
	t      testing.TB
	spec   spec
	dir    string
	as     *syscall.Credential // nil: as the tests
	url    string
	bus    string // address of the embedded NATS
	op     *operator.Client

	relay  *process
	net    *testnet.Net  // of its own; nil: all of it is on the machine's loopback
	host   *testnet.Host // of the relay in it
	nats   *testnet.Host // of a NATS that is not the relay's; nil: there is none
	nodes  map[string]*node
	order  []string          // names of nodes
	yard   *baddisk.Yard     // nil until a test asks for bad disks
	differ func(path string) // called for what differs between two trees; may be nil
	places map[string]string // where those of the relay's directories are that are not where they usually are

	extra []string // environment of the processes that are started from now on

	mu   sync.Mutex // guards what follows: supervisors start processes too
	all  []*process
	ends []func() // at the site's end, the last one first, before its processes are ended
}

// node is a machine of a primary cluster.
type node struct {
	nodeSpec
	address string // of the agent's own status
	config  string
	data    string
	proxy   *proxy        // nil: the agent reaches the relay directly
	host    *testnet.Host // nil: on the machine's own loopback
	disk    *faultfs.FS   // of the first root; nil: an ordinary one
	agent   *process
	op      *operator.Client // asks the agent itself
}

// newSite makes the directories and writes the configurations. Nothing runs yet. It waits for its turn among the sites.
func newSite(t *testing.T, sp spec) *site {
	t.Helper()
	if testing.Short() {
		t.Skip("end-to-end tests start processes: not with -short")
	}
	sites <- struct{}{}
	s := &site{t: t, spec: sp, nodes: map[string]*node{}}
	dir := t.TempDir() // removed after what follows
	t.Cleanup(func() { <-sites })
	if sp.ordinary {
		require.Zero(t, os.Geteuid(), "only root can run a site as another user")
		s.as = &syscall.Credential{Uid: nobody, Gid: nobody}
		require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	}
	s.dir = dir
	s.prepare()
	t.Cleanup(func() { s.close() }) // before what prepare has made: networks and disks
	return s
}

// runs starts the relay and all agents, and waits until they know each other.
func runs(t *testing.T, sp spec, prepare func(*site)) *site {
	t.Helper()
	s := newSite(t, sp)
	prepare(s)
	s.startRelay()
	s.startNodes(s.order...)
	return s
}

func (s *site) prepare() {
	s.t.Helper()
	sp := &s.spec
	if sp.stores == 0 {
		sp.stores = 3
	}
	if sp.cache == "" {
		sp.cache = "capacity: 8GiB"
	}
	if sp.suspicion == "" {
		sp.suspicion = "3s"
	}
	if sp.log == "" {
		sp.log = "debug"
	}
	for _, l := range sp.links {
		if !contains(sp.targets, l.to) && sp.buckets[l.to] == "" {
			sp.targets = append(sp.targets, l.to)
		}
	}
	s.makeDirs("logs", "relay", "roots")
	for i := range sp.stores {
		s.makeDirs(fmt.Sprintf("store-%d", i+1))
	}
	for _, name := range sp.targets {
		s.makeDirs("target-" + name)
	}
	s.connect()
	s.writeRelay(strings.TrimPrefix(s.url, "http://"))
	for _, n := range sp.nodes {
		s.addNode(n)
	}
}

// addNode adds a node to a site; its agent is not started.
func (s *site) addNode(spec nodeSpec) *node {
	s.t.Helper()
	if spec.cluster == "" {
		spec.cluster = "primary"
	}
	n := &node{nodeSpec: spec, config: s.path(spec.name + ".yaml"), data: s.path("agent-" + spec.name)}
	s.connectNode(n)
	s.makeDirs("agent-"+spec.name, "roots/"+spec.name)
	relay := s.url
	if n.proxy != nil {
		relay = "http://" + n.proxy.address
	}
	var text strings.Builder
	fmt.Fprintf(&text, "node: %s\ncluster: %s\nrelays: [%s]\ndata: %q\nlisten: %s\nlog: {level: %s, format: json}\n%s\ndatasets:\n",
		n.name, n.cluster, relay, n.data, n.address, s.spec.log, n.more)
	for _, name := range unique(n.datasets) {
		var paths []string
		for i := range count(n.datasets, name) {
			path := s.rootPath(n.name, name, i)
			if n.at != "" {
				path = n.at
			} else {
				require.NoError(s.t, os.Mkdir(path, 0o755))
				s.own(path)
			}
			if n.faulty {
				disk := s.path(fmt.Sprintf("disk-%s-%s-%d", n.name, name, i))
				require.NoError(s.t, os.Mkdir(disk, 0o755))
				if f := faultfs.Mount(s.t, disk, path, uint64(*seed)); n.disk == nil {
					n.disk = f
				}
			}
			paths = append(paths, fmt.Sprintf("%q", path))
		}
		fmt.Fprintf(&text, "  - name: %s\n    paths: [%s]\n", name, strings.Join(paths, ", "))
		if n.scan != "" {
			fmt.Fprintf(&text, "    scan: %s\n", n.scan)
		}
	}
	require.NoError(s.t, os.WriteFile(n.config, []byte(text.String()), 0o644))
	s.nodes[n.name] = n
	s.order = append(s.order, n.name)
	return n
}

// reload has the relay read its configuration, for the first time since the site began.
func (s *site) reload() {
	s.t.Helper()
	s.relay.signal(syscall.SIGHUP)
	s.until("the configuration to be read", func() bool { return len(s.events("reloaded")) > 0 })
}

// writeRelay writes relay.yaml.
func (s *site) writeRelay(listen string) {
	s.t.Helper()
	sp := s.spec
	var stores []string
	for i := range sp.stores {
		stores = append(stores, fmt.Sprintf("%q", s.path(fmt.Sprintf("store-%d", i+1))))
	}
	nats := sp.nats
	if nats == "" {
		nats = fmt.Sprintf("listen: %q", s.bus)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "name: relay-1\ndata: %q\nlisten: %s\nnats: {%s}\ninsecure: %t\nsuspicion: %s\nlog: {level: %s, format: json}\ncache:\n  stores: [%s]\n  ballast: 1MiB\n",
		s.path("relay"), listen, nats, s.host != nil, sp.suspicion, sp.log, strings.Join(stores, ", "))
	for _, line := range strings.Split(sp.cache, "\n") {
		fmt.Fprintf(&text, "  %s\n", line)
	}
	text.WriteString("targets:\n")
	for _, name := range sp.targets {
		fmt.Fprintf(&text, "  %s: {type: dir, path: %q}\n", name, s.target(name))
	}
	for _, name := range slices.Sorted(maps.Keys(sp.buckets)) {
		fmt.Fprintf(&text, "  %s: {%s}\n", name, sp.buckets[name])
	}
	if len(sp.links) > 0 {
		text.WriteString("links:\n")
	}
	for _, l := range sp.links {
		more := l.more
		if l.prefix != "" {
			more = strings.TrimSuffix("prefix: "+l.prefix+", "+more, ", ")
		}
		fmt.Fprintf(&text, "  - {name: %s, from: %s, to: %s, %s}\n", l.name, l.from, l.to, more)
	}
	require.NoError(s.t, os.WriteFile(s.path("relay.yaml"), []byte(strings.ReplaceAll(text.String(), ", }", "}")), 0o644))
}

// path is a file of the site.
func (s *site) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// target is the directory of a target.
func (s *site) target(name string) string {
	if at := s.places["target-"+name]; at != "" {
		return at
	}
	return s.path("target-" + name)
}

// relocate puts one of the relay's directories, by its name in the site, at another place, before the relay starts.
func (s *site) relocate(name, to string) {
	s.t.Helper()
	if s.places == nil {
		s.places = map[string]string{}
	}
	require.NoError(s.t, os.Remove(s.path(name)))
	require.NoError(s.t, os.Mkdir(to, 0o755))
	s.own(to)
	text, err := os.ReadFile(s.path("relay.yaml"))
	require.NoError(s.t, err)
	from := fmt.Sprintf("%q", s.path(name))
	require.Contains(s.t, string(text), from)
	require.NoError(s.t, os.WriteFile(s.path("relay.yaml"), []byte(strings.ReplaceAll(string(text), from, fmt.Sprintf("%q", to))), 0o644))
	s.places[name] = to
}

// mirror is the directory that a link writes to.
func (s *site) mirror(name string) string {
	s.t.Helper()
	return filepath.Join(s.place(name), s.spec.link(s.t, name).prefix)
}

// place is the directory of a link's target.
func (s *site) place(name string) string {
	s.t.Helper()
	return s.target(s.spec.link(s.t, name).to)
}

// link is one of a site's links.
func (sp *spec) link(t testing.TB, name string) link {
	t.Helper()
	for _, l := range sp.links {
		if l.name == name {
			return l
		}
	}
	require.FailNow(t, "no link "+name)
	return link{}
}

// root is the first root of a dataset on a node.
func (s *site) root(node, dataset string) string { return s.rootPath(node, dataset, 0) }

// rootPath is the i-th root of a dataset on a node.
func (s *site) rootPath(node, dataset string, i int) string {
	if i > 0 {
		dataset = fmt.Sprintf("%s-%d", dataset, i+1)
	}
	return s.path("roots", node, dataset)
}

// makeDirs makes directories of the site that its daemons may write.
func (s *site) makeDirs(rel ...string) {
	s.t.Helper()
	for _, r := range rel {
		require.NoError(s.t, os.Mkdir(s.path(r), 0o755))
		s.own(s.path(r))
	}
}

// own gives a path to the user of the daemons.
func (s *site) own(path string) {
	s.t.Helper()
	if s.as != nil {
		require.NoError(s.t, os.Lchown(path, int(s.as.Uid), int(s.as.Gid)))
	}
}

// env is the environment of all processes: nothing of the tests' own.
func (s *site) env() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "TZ=UTC", "TMPDIR=" + s.dir, "GORACE=halt_on_error=0"}
}

func (s *site) start(name string, on *testnet.Host, args ...string) *process {
	s.t.Helper()
	what := program
	if s.spec.program != "" {
		what = s.spec.program
	}
	p := start(s.t, name, s.path("logs", name+".log"), on, s.as, append(s.env(), s.extra...), what, args...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, p)
	return p
}

// atEnd has something done when the site ends, before its processes are ended.
func (s *site) atEnd(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends = append(s.ends, do)
}

// startRelay starts the relay and waits until it answers.
func (s *site) startRelay() {
	s.t.Helper()
	s.launchRelay()
	s.until("the relay to answer", func() bool { return s.op.Healthy(s.t.Context()) == nil })
}

// launchRelay starts the relay and does not wait.
func (s *site) launchRelay() {
	s.t.Helper()
	s.relay = s.start("relay", s.host, "relay", "--config", s.path("relay.yaml"))
}

// superviseRelay starts the relay under a supervisor and waits until it answers.
func (s *site) superviseRelay() *supervisor {
	s.t.Helper()
	v := s.supervise(func() *process { return s.start("relay", s.host, "relay", "--config", s.path("relay.yaml")) })
	s.until("the relay to answer", func() bool { return s.op.Healthy(s.t.Context()) == nil })
	return v
}

// superviseNodes starts agents under supervisors, and waits until the relay has them as alive.
func (s *site) superviseNodes(names ...string) (all []*supervisor) {
	s.t.Helper()
	for _, name := range names {
		all = append(all, s.supervise(func() *process { return s.start(name, s.nodes[name].host, "agent", "--config", s.nodes[name].config) }))
	}
	s.awaitState("alive", names...)
	return all
}

// startNodes starts agents and waits until the relay has them as alive.
func (s *site) startNodes(names ...string) {
	s.t.Helper()
	for _, name := range names {
		s.launch(name)
	}
	s.awaitState("alive", names...)
}

// launch starts an agent and does not wait.
func (s *site) launch(name string) {
	s.t.Helper()
	n := s.nodes[name]
	require.NotNil(s.t, n, "node %s", name)
	n.agent = s.start(name, n.host, "agent", "--config", n.config)
}

// close ends all processes, reports what went wrong, and makes everything removable.
func (s *site) close() {
	if s.t.Failed() {
		s.explain()
	}
	for _, do := range slices.Backward(s.ends) {
		do()
	}
	var wg sync.WaitGroup
	for _, p := range s.all {
		wg.Add(1)
		go func() { // ends with the process
			defer wg.Done()
			p.kill()
		}()
	}
	wg.Wait()
	s.op.Close()
	if s.yard != nil {
		assert.NoError(s.t, s.yard.Close())
	}
	logs := map[string]bool{}
	for _, p := range s.all {
		if logs[p.log] {
			continue
		}
		logs[p.log] = true
		if found := raced(p.log); found != "" {
			s.t.Errorf("%s has a data race:\n%s", p.name, found)
		}
	}
	if s.t.Failed() {
		s.showLogs(logs)
	}
	if os.Geteuid() != 0 { // whose own directories may be read-only
		_ = filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, _ error) error {
			if d != nil && d.IsDir() {
				_ = os.Chmod(path, 0o700)
			}
			return nil
		})
	}
}

// freeAddress finds a loopback port that nobody uses, below those that the kernel gives to outgoing connections: nobody
// takes it while the relay that has it is down.
func freeAddress(t testing.TB) string {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	if ports.next == 0 {
		ports.next = 12000 + rand.IntN(12000)
	}
	for range 2000 {
		ports.next++
		address := fmt.Sprintf("127.0.0.1:%d", ports.next)
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		require.NoError(t, l.Close())
		return address
	}
	require.FailNow(t, "no free port")
	return ""
}

var ports struct {
	sync.Mutex
	next int // the last one given away; 0 at first
}

func contains(list []string, s string) bool { return count(list, s) > 0 }

func count(list []string, s string) (n int) {
	for _, x := range list {
		if x == s {
			n++
		}
	}
	return n
}

func unique(list []string) (out []string) {
	for _, x := range list {
		if !contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}
