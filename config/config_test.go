package config

import (
	"errors"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the tests must not depend on the machine's database

	"github.com/stretchr/testify/require"

	"forebay/flush/policy"
	"forebay/flush/target"
	"forebay/proto"
	"forebay/units"
)

const fullRelay = `# the sample of the contract, and the rest
name: relay-1
data: /var/lib/forebay
listen: 127.0.0.1:7480
nats: {listen: "127.0.0.1:7422"}
cache:
  stores: [/disk1/forebay, /disk2/forebay,
           /disk3/forebay]
  coding: 2+1
  capacity: 200GiB
  high_water: 80%
  low_water: 60%
  ballast: 1GiB
  rebuild_after: 1h
  rebuild_rate: 32M
  scrub: off
  scrub_rate: off
suspicion: 5s
bandwidth: "08:00,20M 19:00,off"
timezone: America/New_York
log: {level: debug, format: json}
targets:
  nas: {type: dir, path: /mnt/nas}
  usb: {type: dir, path: /mnt/usb/}
links:
  - name: media-nas
    from: primary/media
    to: nas
    prefix: media/
    flush: {size: 1GiB, age: 5m, objects: 10000, window: "22:00-06:00", timezone: Europe/Berlin,
            bandwidth: "08:00,10M 19:00,50M 23:00,off", deadline: 24h, priority: 3, budget: 100GiB, weight: 3, batch_min: 1MiB, batch_max: 512MiB}
    confirm: reread
    coalesce: false
    share: 30%
    when_full: hold
    delete: {propagate: true, grace: 2d, guard: {share: 10%, objects: 50}}
    history: {keep: 30d}
  - name: docs-nas
    from: primary/docs
    to: nas
    prefix: docs
    flush:
      window:
        - Mon-Fri 22:00-06:00
        - Sat,Sun 00:00-24:00
  - {name: media-usb, from: primary/media, to: usb}
`

const fullAgent = `node: node-a
cluster: primary
relays: [http://127.0.0.1:7480, "https://relay.example:7480/"]
data: /var/lib/forebay-agent
datasets:
  - name: media
    path: /srv/media
  - name: docs
    paths: [/srv/docs, /mnt/docs]
    scan: 15m
    include: ["*.pdf"]
    exclude: ["tmp/", "a/**/b"]
limits: {read: 100M, upload: 80Mbit/s, nice: 5, io: best-effort}
listen: 127.0.0.1:7481
log: {level: warn}
`

func TestRelay(t *testing.T) {
	t.Parallel()
	c, err := ParseRelay([]byte(fullRelay), "relay.yaml")
	require.NoError(t, err)
	require.Equal(t, "relay-1", c.Name)
	require.Equal(t, Cache{
		Stores: []string{"/disk1/forebay", "/disk2/forebay", "/disk3/forebay"}, Coding: Coding{2, 1}, Capacity: 200 * units.GiB,
		HighWater: 8000, LowWater: 6000, Ballast: units.GiB,
		RebuildAfter: units.Duration(time.Hour), RebuildRate: 32 * units.Rate(units.MiB), Scrub: 0, ScrubRate: 0,
	}, c.Cache)
	require.Equal(t, 5*time.Second, c.Suspicion.Std())
	require.Equal(t, "08:00,20MiB/s 19:00,off in America/New_York", c.Bandwidth.String()+" in "+c.Zone.String())
	require.Equal(t, Log{"debug", "json"}, c.Log)
	require.Equal(t, []Target{{Name: "nas", Type: "dir", Path: "/mnt/nas"}, {Name: "usb", Type: "dir", Path: "/mnt/usb"}}, c.Targets)
	require.Len(t, c.Links, 3)

	media := c.Links[0]
	require.Equal(t, "primary/media to nas below media", media.From.String()+" to "+media.To+" below "+media.Prefix)
	p := media.Policy
	require.Equal(t, []any{units.GiB, 5 * time.Minute, int64(10000), "22:00-06:00", "Europe/Berlin", 24 * time.Hour, 3, units.MiB, 512 * units.MiB},
		[]any{p.Size, p.Age.Std(), p.Objects, p.Windows.String(), p.Zone.String(), p.Deadline.Std(), p.Priority, p.BatchMin, p.BatchMax})
	require.Equal(t, []any{100 * units.GiB, 3}, []any{p.Budget, p.Weight})
	require.Equal(t, "08:00,10MiB/s 19:00,50MiB/s 23:00,off", p.Bandwidth.String())
	require.Equal(t, []any{target.ConfirmReread, false, units.Percent(3000), policy.Hold}, []any{p.Confirm, p.Coalesce, p.Share, p.WhenFull})
	require.Equal(t, policy.Delete{Propagate: true, Grace: 2 * units.Day, Guard: policy.Guard{Share: 1000, Objects: 50}}, p.Delete)
	require.Equal(t, 30*units.Day, p.Keep)
	require.Equal(t, policy.Keys(), media.Given)

	require.Equal(t, "Mon-Fri 22:00-06:00, Sat,Sun 00:00-24:00", c.Links[1].Policy.Windows.String())
	require.Equal(t, []string{"flush.window"}, c.Links[1].Given)
	require.Equal(t, policy.Default(), c.Links[2].Policy)
	require.Empty(t, c.Links[2].Given)
}

func TestDrivers(t *testing.T) {
	t.Parallel()
	c, err := ParseRelay([]byte(strings.Replace(smallRelay, "links:", `  any: {type: rclone, remote: ":webdav,url='http://127.0.0.1:8080',user=u:/x", settings: {pass_file: /etc/p, vendor: other}, allow_partial: true}
  shelf: {type: process, command: [/usr/lib/d, --flag], settings: {path: /mnt/s}, memory: 64MiB, timeout: 5m}
  barn: {type: serial, device: /dev/ttyUSB0, baud: 921600}
links:`, 1)), "f")
	require.NoError(t, err)
	any, _ := c.Target("any")
	require.Equal(t, Driver{Remote: ":webdav,url='http://127.0.0.1:8080',user=u:/x", Settings: map[string]string{"vendor": "other"}, Files: map[string]string{"pass": "/etc/p"},
		Memory: 512 * units.MiB, Timeout: units.Duration(time.Minute), Partial: true}, any.Driver)
	require.Equal(t, "rclone::webdav,url='http://127.0.0.1:8080',user=u:/x", any.Identity())
	shelf, _ := c.Target("shelf")
	require.Equal(t, Driver{Command: []string{"/usr/lib/d", "--flag"}, Settings: map[string]string{"path": "/mnt/s"}, Files: map[string]string{}, Memory: 64 * units.MiB, Timeout: units.Duration(5 * time.Minute)}, shelf.Driver)
	require.Equal(t, "process:d path=/mnt/s", shelf.Identity())
	barn, _ := c.Target("barn")
	require.Equal(t, "serial:/dev/ttyUSB0", barn.Identity())
	require.Equal(t, 921600, barn.Driver.Baud)
}

func TestRelayDefaults(t *testing.T) {
	t.Parallel()
	for stores, coding := range map[string]string{"[/a]": "1+0", "[/a,/b]": "1+1", "[/a,/b,/c]": "2+1", "[/a,/b,/c,/d,/e]": "2+1", "[/a,/b,/c,/d,/e,/f]": "4+2"} {
		c, err := ParseRelay([]byte("name: r\ncache: {stores: "+stores+"}\n"), "r")
		require.NoError(t, err)
		require.Equal(t, coding, c.Cache.Coding.String())
		require.Equal(t, []any{"/var/lib/forebay", proto.DefaultListen, proto.DefaultBusAddr, "85%", "70%", "256MiB", "3s", Log{"info", "auto"}, units.Size(0)},
			[]any{c.Data, c.Listen, c.NATS.Listen, c.Cache.HighWater.String(), c.Cache.LowWater.String(), c.Cache.Ballast.String(), c.Suspicion.String(), c.Log, c.Cache.Capacity})
	}
}

func TestAgent(t *testing.T) {
	t.Parallel()
	c, err := ParseAgent([]byte(fullAgent), "agent.yaml")
	require.NoError(t, err)
	require.Equal(t, &Agent{
		Node: "node-a", Cluster: "primary", Relays: []string{"http://127.0.0.1:7480", "https://relay.example:7480"}, Data: "/var/lib/forebay-agent",
		Datasets: []Dataset{
			{Name: "media", Paths: []string{"/srv/media"}},
			{Name: "docs", Paths: []string{"/srv/docs", "/mnt/docs"}, Scan: units.Duration(15 * time.Minute), Include: []string{"*.pdf"}, Exclude: []string{"tmp/", "a/**/b"}},
		},
		Limits: Limits{Read: 100 * units.Rate(units.MiB), Upload: 1e7, Nice: 5, IO: "best-effort"},
		Listen: "127.0.0.1:7481", Log: Log{"warn", "auto"},
	}, c)

	c, err = ParseAgent([]byte("node: n\ncluster: c\ndatasets: [{name: d, path: /d}]\n"), "a")
	require.NoError(t, err)
	require.Equal(t, []any{[]string{proto.DefaultRelay}, "/var/lib/forebay-agent", Limits{Nice: 10, IO: "idle"}, ""}, []any{c.Relays, c.Data, c.Limits, c.Listen})
}

// mistake is a change of a good file and what has to be said about it.
type mistake struct{ old, new, says string }

const smallRelay = `name: r
cache:
  stores: [/a, /b]
targets:
  nas: {type: dir, path: /mnt/nas}
links:
  - name: one
    from: c/d
    to: nas
    prefix: one
`

var relayMistakes = map[string]mistake{
	"no YAML":             {"name: r", "name: [", "f:1:7: sequence end token"},
	"tab":                 {"  stores", "\tstores", "f:3:1: found character"},
	"key twice":           {"name: r", "name: r\nname: s", `f:2:1: mapping key "name" already defined at [1:1]`},
	"empty":               {smallRelay, "", "f:1:1: the file is empty"},
	"a list":              {smallRelay, "- a\n", "f:1:1: must be a mapping"},
	"two documents":       {"name: r", "name: r\n---\nname: s", "f:3:1: a second YAML document"},
	"unknown key":         {"  stores", "  capcity: 1GiB\n  stores", "f:3:3: cache.capcity: unknown key, did you mean capacity?"},
	"unknown top key":     {"name: r", "name: r\nreplicas: 3", "f:2:1: replicas: unknown key: the keys here are name, data,"},
	"unknown flush key":   {"    prefix: one", "    flush: {adge: 5m}", "f:10:13: links[0].flush.adge: unknown key, did you mean age?"},
	"no value":            {"name: r", "name:", "f:1:1: name: has no value"},
	"anchor":              {"name: r", "name: &x r", "f:1:1: name: anchors, aliases"},
	"bad name":            {"name: r", "name: a/b", "f:1:7: name: name \"a/b\": character"},
	"no name":             {"name: r\n", "", "f:1:1: name: name is missing: give the relay a name"},
	"relative data":       {"name: r", "name: r\ndata: lib", `f:2:7: data: path "lib" is not absolute`},
	"bad listen":          {"name: r", "name: r\nlisten: 7480", "f:2:9: listen: address \"7480\" is not host:port"},
	"bad port":            {"name: r", "name: r\nlisten: 127.0.0.1:99999", "port \"99999\" is no number from 0 to 65535"},
	"listen off loopback": {"name: r", "name: r\nlisten: 0.0.0.0:7480", "f:2:9: listen: 0.0.0.0:7480 can be reached from other machines"},
	"listen everywhere":   {"name: r", "name: r\nlisten: :7480", "insecure: true"},
	"bus off loopback":    {"name: r", "name: r\nnats: {listen: 10.0.0.1:7422}", "f:2:16: nats.listen: 10.0.0.1:7422 can be reached"},
	"insecure yes":        {"name: r", "name: r\ninsecure: yes", `"yes" is neither true nor false`},
	"nats both":           {"name: r", "name: r\nnats: {listen: 127.0.0.1:1, urls: [nats://h:4222]}", "f:2:16: nats.listen: listen is for the embedded server"},
	"nats url":            {"name: r", "name: r\nnats: {urls: [http://h:4222]}", "f:2:15: nats.urls[0]: url \"http://h:4222\": write nats or tls://host:port"},
	"nats secret":         {"name: r", "name: r\nnats: {urls: [nats://u:p@h:4222]}", "contains a secret"},
	"nats credentials":    {"name: r", "name: r\nnats: {credentials_file: /c}", "the embedded server needs no credentials"},
	"size over the cache": {"targets:\n  nas: {type: dir, path: /mnt/nas}\nlinks:\n  - name: one\n", "  capacity: 100GiB\ntargets:\n  nas: {type: dir, path: /mnt/nas}\nlinks:\n  - name: one\n    flush: {size: 50GiB}\n",
		"f:9:19: links[0].flush.size: size 50GiB is never reached: the cache holds 42.5GiB of contents before it is full (capacity 100GiB, of it 85% up to high_water, at coding 1+1)"},
	"bad bandwidth":         {"name: r", "name: r\nbandwidth: 08:00,", "f:2:12: bandwidth: timetable entry"},
	"bad timezone":          {"name: r", "name: r\ntimezone: CEST", `f:2:11: timezone: time zone "CEST" is not known`},
	"budget too small":      {"    prefix: one", "    flush: {budget: 1MiB}", "f:10:21: links[0].flush.budget: the budget of 1MiB is less than 8MiB"},
	"later link key":        {"    prefix: one", "    copies: 3", "f:10:5: links[0].copies: comes with a later release"},
	"suspicion":             {"name: r", "name: r\nsuspicion: 1ms", "f:2:12: suspicion: suspicion 1ms is outside 100ms to 10m"},
	"log level":             {"name: r", "name: r\nlog: {level: loud}", `f:2:14: log.level: "loud" is none of trace, debug`},
	"no stores":             {"  stores: [/a, /b]", "  coding: 1+0", "f:2:1: cache.stores: no store is given"},
	"no cache":              {"cache:\n  stores: [/a, /b]\n", "", "f:1:1: cache.stores: no store is given"},
	"stores no list":        {"[/a, /b]", "/a", "f:3:3: cache.stores: must be a list"},
	"relative store":        {"[/a, /b]", "[/a, b]", `f:3:16: cache.stores[1]: path "b" is not absolute`},
	"store twice":           {"[/a, /b]", "[/a, /a/]", "f:3:16: cache.stores[1]: /a is also the store 1"},
	"store in store":        {"[/a, /b]", "[/a, /a/b]", "cache.stores[1]: /a/b lies in the store 1 (/a)"},
	"store in data":         {"[/a, /b]", "[/a, /var/lib/forebay/s]", "/var/lib/forebay/s lies in the data directory"},
	"data in store":         {"name: r", "name: r\ndata: /a/data", "cache.stores[0]: /a contains the data directory (/a/data)"},
	"store in target":       {"[/a, /b]", "[/a, /mnt/nas/x]", "targets.nas.path: /mnt/nas contains the store 2"},
	"target in target":      {"links:", "  in: {type: dir, path: /mnt/nas/in}\nlinks:", "f:6:25: targets.in.path: /mnt/nas/in lies in the target nas"},
	"coding form":           {"  stores", "  coding: 2\n  stores", `f:3:11: cache.coding: coding "2" is not DATA+PARITY`},
	"coding too wide":       {"  stores", "  coding: 2+1\n  stores", "f:3:11: cache.coding: coding 2+1 needs 3 stores and there are 2: add stores, or use 1+1"},
	"coding without data":   {"  stores", "  coding: 0+2\n  stores", "no data shards"},
	"capacity unit":         {"  stores", "  capacity: 200\n  stores", `f:3:13: cache.capacity: size "200" has no unit: write a number with one of B KiB`},
	"capacity small":        {"  stores", "  capacity: 1MiB\n  stores", "capacity 1MiB has no room for segments: give at least 32MiB"},
	"water":                 {"  stores", "  low_water: 90%\n  stores", "f:3:14: cache.low_water: low_water 90% must be below high_water 85%"},
	"water by the other":    {"  stores", "  high_water: 60%\n  stores", "cache.low_water: low_water 70% must be below high_water 60%"},
	"water unit":            {"  stores", "  low_water: 0.7\n  stores", "no % sign"},
	"remote no connection":  {"links:", "  any: {type: rclone, remote: x}\nlinks:", "targets.any.remote: remote \"x\" is no connection string"},
	"remote missing":        {"links:", "  any: {type: rclone}\nlinks:", "targets.any.remote: remote is missing: give a connection string"},
	"remote with secret":    {"links:", "  any: {type: rclone, remote: \":webdav,url='http://h',user=u,pass=x:/\"}\nlinks:", "the option pass of the remote is a secret"},
	"rclone secret inline":  {"links:", "  any: {type: rclone, remote: \":s3:b\", settings: {secret_access_key: x}}\nlinks:", "targets.any.settings.secret_access_key: secrets do not belong in here"},
	"setting twice":         {"links:", "  any: {type: rclone, remote: \":smb:b\", settings: {user: x, user_file: /u}}\nlinks:", "targets.any.settings.user_file: user is given, too"},
	"process commandless":   {"links:", "  any: {type: process}\nlinks:", "targets.any.command: command is missing: name the driver's program"},
	"process relative":      {"links:", "  any: {type: process, command: [x]}\nlinks:", "targets.any.command[0]: program \"x\" is not absolute"},
	"process memory":        {"links:", "  any: {type: process, command: [/x], memory: 1MiB}\nlinks:", "targets.any.memory: memory 1MiB is too little"},
	"process timeout":       {"links:", "  any: {type: process, command: [/x], timeout: 1ms}\nlinks:", "targets.any.timeout: a time of 1ms for a request: give 1s to 1h"},
	"process twice":         {"links:", "  a: {type: process, command: [/x]}\n  b: {type: process, command: [/x]}\nlinks:", "targets.b.type: process:x is also the target a"},
	"serial deviceless":     {"links:", "  any: {type: serial}\nlinks:", "targets.any.device: device is missing"},
	"serial baud":           {"links:", "  any: {type: serial, device: /dev/ttyS0, baud: fast}\nlinks:", "targets.any.baud: \"fast\" is no number of bits a second"},
	"sftp without keys":     {"links:", "  off: {type: sftp, host: h, user: u, path: /b, known_hosts: /k}\nlinks:", "targets.off.key_file: name the private key"},
	"sftp password in file": {"links:", "  off: {type: sftp, host: h, user: u, path: /b, known_hosts: /k, password: p}\nlinks:", "targets.off.password: secrets do not belong in here"},
	"sftp host with user":   {"links:", "  off: {type: sftp, host: u@h, user: u, path: /b, known_hosts: /k, key_file: /i}\nlinks:", "give a name or an address alone"},
	"sftp unknown hosts":    {"links:", "  off: {type: sftp, host: h, user: u, path: /b, key_file: /i}\nlinks:", "targets.off.known_hosts: known_hosts is missing"},
	"s3 without bucket":     {"links:", "  dr: {type: s3, endpoint: \"http://h:9000\"}\nlinks:", "targets.dr.bucket: bucket is missing: name the bucket"},
	"s3 endpoint":           {"links:", "  dr: {type: s3, endpoint: \"h:9000\", bucket: media}\nlinks:", "targets.dr.endpoint: url \"h:9000\": write http or https://host:port"},
	"s3 folder in bucket":   {"links:", "  dr: {type: s3, bucket: media/x}\nlinks:", "a folder in the bucket is set by path"},
	"s3 secret in file":     {"links:", "  dr: {type: s3, bucket: media, access_key: a, secret_key: b}\nlinks:", "targets.dr.secret_key: secrets do not belong in here"},
	"s3 half a key":         {"links:", "  dr: {type: s3, bucket: media, access_key: a}\nlinks:", "access_key and secret_key_file go together"},
	"s3 buckets overlap":    {"links:", "  dr: {type: s3, bucket: media}\n  ds: {type: s3, bucket: media, path: sub}\nlinks:", "/media/sub lies in the target dr"},
	"target unknown":        {"type: dir", "type: dri", `type "dri" is not known, did you mean dir?`},
	"target typeless":       {"type: dir, ", "", "f:5:3: targets.nas.type: type is missing"},
	"target pathless":       {", path: /mnt/nas", "", "targets.nas.path: path is missing"},
	"target key":            {"path: /mnt/nas", "path: /mnt/nas, pth: /x", "targets.nas.pth: unknown key, did you mean path?"},
	"target name":           {"links:", "  n/s: {type: dir, path: /mnt/x}\nlinks:", "f:6:3: targets.n/s: target: name"},
	"link without to":       {"    to: nas\n", "", "f:7:5: links[0].to: to is missing"},
	"link to nowhere":       {"to: nas", "to: nsa", `f:9:9: links[0].to: there is no target "nsa", did you mean nas?`},
	"link to elsewhere":     {"to: nas", "to: somewhere", `there is no target "somewhere": the targets are nas`},
	"link to cluster":       {"to: nas", "to: cluster:backup/media", "links[0].to: a cluster as a target (cluster:backup/media) is not built yet"},
	"link from":             {"from: c/d", "from: media", `f:8:11: links[0].from: dataset "media": want CLUSTER/DATASET`},
	"prefix up":             {"prefix: one", "prefix: ../x", `f:10:13: links[0].prefix: prefix: path "../x" has a component ".."`},
	"prefix absolute":       {"prefix: one", "prefix: /x", "is a folder under the target"},
	"prefix reserved":       {"prefix: one", "prefix: .forebay", "reserved"},
	"two links, one name":   {"prefix: one", "prefix: one\n  - {name: one, from: c/e, to: nas, prefix: two}", `f:11:12: links[1].name: two links are named "one"`},
	"two links, one place":  {"    prefix: one", "  - {name: two, from: c/e, to: nas}", "links[1].prefix: links one and two both write to the target nas"},
	"two links, one prefix": {"prefix: one", "prefix: one\n  - {name: two, from: c/e, to: nas, prefix: one}", "f:11:45: links[1].prefix: links one and two both write to prefix one of the target nas"},
	"nested prefixes":       {"prefix: one", "prefix: one\n  - {name: two, from: c/e, to: nas, prefix: one/two}", "write into each other"},
	"nested in none":        {"prefix: one", "prefix: one\n  - {name: two, from: c/e, to: nas}", `f:11:5: links[1].prefix: links one and two write into each other on the target nas (prefixes "one" and "")`},
	"shares":                {"prefix: one", "prefix: one\n    share: 60%\n  - {name: two, from: c/e, to: nas, prefix: two, share: 50%}", "f:6:1: links: the shares of the links add up to 110%"},
	"shares without rest":   {"prefix: one", "prefix: one\n    share: 100%\n  - {name: two, from: c/e, to: nas, prefix: two}", "add up to 100%, which leaves nothing for others"},
	"size unit":             {"prefix: one", "prefix: one\n    flush: {size: 10M}", `f:11:19: links[0].flush.size: size "10M" has the unknown unit "M" (did you mean MiB?)`},
	"age unit":              {"prefix: one", "prefix: one\n    flush:\n      age: 5", `f:12:12: links[0].flush.age: duration "5" has a number without a unit`},
	"window":                {"prefix: one", "prefix: one\n    flush: {window: 22-06}", "f:11:21: links[0].flush.window: window \"22-06\""},
	"window in list":        {"prefix: one", "prefix: one\n    flush: {window: [\"22:00-06:00\", \"Mun 1:00-2:00\"]}", `f:11:37: links[0].flush.window[1]: window "Mun 1:00-2:00": day "Mun"`},
	"windows and always":    {"prefix: one", "prefix: one\n    flush: {window: [always, \"22:00-06:00\"]}", "links[0].flush.window: window"},
	"bandwidth":             {"prefix: one", "prefix: one\n    flush: {bandwidth: \"08:00,fast\"}", "f:11:24: links[0].flush.bandwidth: timetable entry \"08:00,fast\""},
	"deadline and age":      {"prefix: one", "prefix: one\n    flush: {age: 1h, deadline: 5m}", "f:11:32: links[0].flush.deadline: the deadline of 5m is shorter than the age of 1h"},
	"batch_min alone":       {"prefix: one", "prefix: one\n    flush: {batch_min: 1MiB}", "links[0].flush.batch_min: with batch_min 1MiB and neither age nor deadline"},
	"guard":                 {"prefix: one", "prefix: one\n    delete: {guard: {share: 20}}", "f:11:29: links[0].delete.guard.share: percentage \"20\" has no % sign"},
	"guard key":             {"prefix: one", "prefix: one\n    delete: {guard: {object: 20}}", "links[0].delete.guard.object: unknown key, did you mean objects?"},
	"flush no mapping":      {"prefix: one", "prefix: one\n    flush: 5m", "f:11:5: links[0].flush: must be a mapping"},
	"link no mapping":       {"prefix: one", "prefix: one\n  - two", "f:11:5: links[1]: must be a mapping"},
}

func TestRelayMistakes(t *testing.T) {
	t.Parallel()
	_, err := ParseRelay([]byte(smallRelay), "f")
	require.NoError(t, err)
	for name, m := range relayMistakes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Contains(t, smallRelay, m.old)
			_, err := ParseRelay([]byte(strings.Replace(smallRelay, m.old, m.new, 1)), "f")
			var errs Errors
			require.ErrorAs(t, err, &errs)
			require.Len(t, errs, 1, "one mistake, one message: %s", err)
			require.Contains(t, err.Error(), m.says)
		})
	}
}

const smallAgent = `node: n
cluster: c
datasets:
  - name: d
    path: /d
`

func TestAgentMistakes(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]mistake{
		"no node":                {"node: n\n", "", "node is missing"},
		"no cluster":             {"cluster: c\n", "", "cluster is missing"},
		"no datasets":            {"datasets:\n  - name: d\n    path: /d\n", "", "datasets is missing"},
		"empty datasets":         {"\n  - name: d\n    path: /d", " []", "f:3:1: datasets: the list is empty"},
		"relay url":              {"node: n", "node: n\nrelays: [relay:7480]", `f:2:10: relays[0]: url "relay:7480": write http or https://host:port`},
		"relay path":             {"node: n", "node: n\nrelays: [http://h:1/x]", "goes on behind the port"},
		"no relays":              {"node: n", "node: n\nrelays: []", "the list is empty: name a relay"},
		"no path":                {"    path: /d\n", "", "f:4:5: datasets[0].path: path is missing"},
		"path and paths":         {"    path: /d", "    path: /d\n    paths: [/e]", "a dataset has path or paths"},
		"empty paths":            {"    path: /d", "    paths: []", "f:5:5: datasets[0].paths: the list is empty"},
		"relative path":          {"path: /d", "path: d", "is not absolute"},
		"one path twice":         {"    path: /d", "    paths: [/d, /d]", "f:5:17: datasets[0].paths[1]: /d is also the dataset d"},
		"one name twice":         {"path: /d", "path: /d\n  - {name: d, path: /e}", `f:6:12: datasets[1].name: two datasets are named "d"`},
		"nested datasets":        {"path: /d", "path: /d\n  - {name: e, path: /d/e}", "f:6:21: datasets[1].path: /d/e lies in the dataset d (/d)"},
		"data in a dataset":      {"node: n", "node: n\ndata: /d/agent", "datasets[0].path: /d contains the data directory (/d/agent)"},
		"dataset in data":        {"node: n", "node: n\ndata: /", "/d lies in the data directory (/)"},
		"receive":                {"    path: /d", "    path: /d\n    receive: true", "datasets[0].receive: comes with a later release"},
		"scan":                   {"    path: /d", "    path: /d\n    scan: often", "datasets[0].scan: duration"},
		"scan 0":                 {"    path: /d", "    path: /d\n    scan: 0s", "write auto, or the time"},
		"glob":                   {"    path: /d", "    path: /d\n    exclude: [\"a[\"]", "f:6:15: datasets[0].exclude[0]: pattern \"a[\" is not a valid glob"},
		"nice":                   {"node: n", "node: n\nlimits: {nice: -5}", `"-5" is no whole number from 0 to 19`},
		"io":                     {"node: n", "node: n\nlimits: {io: fast}", "none of idle, best-effort, none"},
		"read":                   {"node: n", "node: n\nlimits: {read: 0}", "not clear"},
		"listen":                 {"node: n", "node: n\nlisten: 0.0.0.0:7481", "can be reached from other machines"},
		"unknown":                {"node: n", "node: n\nrelay: http://h:1", "f:2:1: relay: unknown key, did you mean relays?"},
		"relay's key in dataset": {"    path: /d", "    path: /d\n    prefix: x", "datasets[0].prefix: unknown key: the keys here are name, path"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Contains(t, smallAgent, m.old)
			_, err := ParseAgent([]byte(strings.Replace(smallAgent, m.old, m.new, 1)), "f")
			var errs Errors
			require.ErrorAs(t, err, &errs)
			require.Len(t, errs, 1, "one mistake, one message: %s", err)
			require.Contains(t, err.Error(), m.says)
		})
	}
}

func TestGlobCheckIsAsked(t *testing.T) {
	t.Parallel()
	text := smallAgent + "    include: [a, b]\n"
	var asked []string
	_, err := ParseAgent([]byte(text), "f", func(glob string) error {
		asked = append(asked, glob)
		if glob == "b" {
			return errors.New("no b")
		}
		return nil
	})
	require.EqualError(t, err, "f:6:18: datasets[0].include[1]: no b")
	require.Equal(t, []string{"a", "b"}, asked)
}

func TestManyMistakesAtOnce(t *testing.T) {
	t.Parallel()
	_, err := ParseRelay([]byte(`nme: r
cache: {stores: [/a, /a], capacity: 10}
targets:
  nas: {type: dir, path: mnt}
links:
  - {name: one, from: media, to: nsa, flush: {size: 1, window: x}}
`), "relay.yaml")
	require.EqualError(t, err, strings.TrimSpace(`
relay.yaml:1:1: name: name is missing: give the relay a name, such as relay-1
relay.yaml:1:1: nme: unknown key, did you mean name?
relay.yaml:2:22: cache.stores[1]: /a is also the store 1: each needs a directory of its own
relay.yaml:2:37: cache.capacity: size "10" has no unit: write a number with one of B KiB MiB GiB TiB KB MB GB TB, such as 512MiB
relay.yaml:4:26: targets.nas.path: path "mnt" is not absolute: begin it with /
relay.yaml:6:23: links[0].from: dataset "media": want CLUSTER/DATASET
relay.yaml:6:34: links[0].to: there is no target "nsa", did you mean nas?
relay.yaml:6:53: links[0].flush.size: size "1" has no unit: write a number with one of B KiB MiB GiB TiB KB MB GB TB, such as 512MiB
relay.yaml:6:64: links[0].flush.window: window "x": no time follows the days: write "22:00-06:00", "Mon-Fri 22:00-06:00", several separated by commas, or "always"
`))
}

func TestCanonical(t *testing.T) {
	t.Parallel()
	for _, text := range []string{fullRelay, smallRelay, "name: r\ncache: {stores: [/a]}\nnats: {urls: [nats://h:4222, \"tls://i:1\", nats://j], credentials_file: /c}\ninsecure: true\n"} {
		requireRelayRoundTrip(t, []byte(text))
	}
	for _, text := range []string{fullAgent, smallAgent} {
		requireAgentRoundTrip(t, []byte(text))
	}
}

func requireRelayRoundTrip(t *testing.T, text []byte) {
	t.Helper()
	c, err := ParseRelay(text, "f")
	if err != nil {
		return
	}
	canonical, err := c.Canonical()
	require.NoError(t, err)
	again, err := ParseRelay(canonical, "f")
	require.NoError(t, err, string(canonical))
	for i := range c.Links {
		require.Equal(t, policy.Keys(), again.Links[i].Given)
		again.Links[i].Given = c.Links[i].Given
	}
	require.Equal(t, c, again)
}

func requireAgentRoundTrip(t *testing.T, text []byte) {
	t.Helper()
	c, err := ParseAgent(text, "f")
	if err != nil {
		return
	}
	canonical, err := c.Canonical()
	require.NoError(t, err)
	again, err := ParseAgent(canonical, "f")
	require.NoError(t, err, string(canonical))
	require.Equal(t, c, again)
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{fullRelay, fullAgent, smallRelay, smallAgent, "", "a: [", "name: r\ncache: {stores: [/a]}\n"} {
		f.Add([]byte(s))
	}
	for _, m := range relayMistakes {
		f.Add([]byte(strings.Replace(smallRelay, m.old, m.new, 1)))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		requireRelayRoundTrip(t, text)
		requireAgentRoundTrip(t, text)
	})
}
