package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"forebay/proto"
	"forebay/relay"
	"forebay/units"
)

// operatorRoutes are those of the comment in proto/status.go.
func (a *API) operatorRoutes(mux *http.ServeMux) {
	get(mux, "GET /v1/status", func(r *http.Request) (any, error) { return answer(a.relay.Status(r.Context())) })
	get(mux, "GET /v1/version", func(*http.Request) (any, error) {
		return proto.VersionInfo{Version: a.relay.Software(), Go: runtime.Version(), API: proto.Version}, nil
	})
	get(mux, "GET /v1/events", a.events)
	get(mux, "GET /v1/backlog", func(r *http.Request) (any, error) {
		return answer(a.relay.Backlog(r.URL.Query().Get("link"), number(r, "limit", 1000, 100_000)))
	})
	get(mux, "GET /v1/failures", func(r *http.Request) (any, error) { return answer(a.relay.Failures(r.URL.Query().Get("link"))) })
	get(mux, "GET /v1/where", func(r *http.Request) (any, error) { return answer(a.relay.Where(r.URL.Query().Get("object"))) })
	get(mux, "POST /v1/links/{link}/scan", func(r *http.Request) (any, error) { return answer(a.relay.RequestScan(r.PathValue("link"))) })
	get(mux, "GET /v1/links/{link}/wait", a.wait)
	get(mux, "GET /v1/links/{link}/inflow", func(r *http.Request) (any, error) { return answer(a.relay.Inflow(r.PathValue("link"))) })
	get(mux, "POST /v1/links/{link}/retry", a.retry)
	get(mux, "POST /v1/links/{link}/drop", func(r *http.Request) (any, error) { return none(a.relay.DropLink(r.PathValue("link"))) })
	get(mux, "POST /v1/links/{link}/pause", a.pause)
	get(mux, "POST /v1/links/{link}/resume", func(r *http.Request) (any, error) {
		return none(a.relay.Pause(r.PathValue("link"), false, 0))
	})
	get(mux, "POST /v1/nodes/{node}/{do}", func(r *http.Request) (any, error) {
		return none(a.relay.Node(r.PathValue("node"), r.PathValue("do")))
	})
	get(mux, "POST /v1/nodes/{cluster}/{node}/{do}", func(r *http.Request) (any, error) {
		return none(a.relay.Node(r.PathValue("cluster")+"/"+r.PathValue("node"), r.PathValue("do")))
	})
	a.storeRoutes(mux)
	a.flushRoutes(mux)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) }) // alive: says nothing of the ledger
	mux.HandleFunc("GET /readyz", a.ready)
	mux.Handle("GET /metrics", a.metrics())
}

// storeRoutes change the stores, which path names, and look after what they hold. dry_run=1 only says what would become of it.
func (a *API) storeRoutes(mux *http.ServeMux) {
	dry := func(r *http.Request) bool { return r.URL.Query().Get("dry_run") == "1" }
	get(mux, "POST /v1/stores/add", func(r *http.Request) (any, error) { return answer(a.relay.AddStore(r.URL.Query().Get("path"))) })
	get(mux, "POST /v1/stores/drain", func(r *http.Request) (any, error) {
		return answer(a.relay.DrainStore(r.URL.Query().Get("path"), r.URL.Query().Get("lost") == "1", dry(r)))
	})
	get(mux, "POST /v1/stores/replace", func(r *http.Request) (any, error) {
		return answer(a.relay.ReplaceStore(r.URL.Query().Get("path"), dry(r)))
	})
	get(mux, "GET /v1/scrub", func(*http.Request) (any, error) { return a.relay.Scrub(), nil })
	get(mux, "POST /v1/scrub", func(*http.Request) (any, error) { return a.relay.StartScrub(), nil })
}

// flushRoutes are answered by the flush.
func (a *API) flushRoutes(mux *http.ServeMux) {
	link := func(pattern string, fn func(f relay.Flusher, r *http.Request, link string) (any, error)) {
		get(mux, pattern, func(r *http.Request) (any, error) {
			f, err := a.relay.Flush(r.PathValue("link"))
			if err != nil {
				return nil, err
			}
			return fn(f, r, r.PathValue("link"))
		})
	}
	link("GET /v1/links/{link}/plan", func(f relay.Flusher, _ *http.Request, l string) (any, error) { return answer(f.Plan(l)) })
	link("POST /v1/links/{link}/flush", func(f relay.Flusher, r *http.Request, l string) (any, error) {
		return answer(f.Flush(l, r.URL.Query().Get("ignore_window") == "1"))
	})
	link("GET /v1/links/{link}/policy", func(f relay.Flusher, _ *http.Request, l string) (any, error) { return answer(f.Policy(l)) })
	link("POST /v1/links/{link}/policy", func(f relay.Flusher, r *http.Request, l string) (any, error) {
		var c proto.PolicyChange
		if err := decode(r, &c); err != nil {
			return nil, err
		}
		return answer(f.SetPolicy(l, c))
	})
	link("GET /v1/links/{link}/deletes", func(f relay.Flusher, _ *http.Request, l string) (any, error) { return answer(f.Deletes(l)) })
	link("POST /v1/links/{link}/deletes/approve", func(f relay.Flusher, _ *http.Request, l string) (any, error) {
		return answer(f.ApproveDeletes(l))
	})
	link("GET /v1/links/{link}/versions", func(f relay.Flusher, r *http.Request, l string) (any, error) {
		return answer(f.Versions(r.Context(), l, r.URL.Query().Get("path")))
	})
	link("GET /v1/links/{link}/history", func(f relay.Flusher, r *http.Request, l string) (any, error) {
		return answer(f.History(r.Context(), l))
	})
	link("POST /v1/links/{link}/history/prune", func(f relay.Flusher, r *http.Request, l string) (any, error) {
		return answer(f.PruneHistory(r.Context(), l))
	})
	mux.HandleFunc("POST /v1/links/{link}/verify", a.verify)
	link("POST /v1/links/{link}/anew", func(f relay.Flusher, r *http.Request, l string) (any, error) {
		return none(f.BeginAnew(r.Context(), l))
	})
	get(mux, "GET /v1/targets", func(r *http.Request) (any, error) {
		f, err := a.relay.Flush("")
		if err != nil {
			return nil, err
		}
		return f.Targets(r.Context()), nil
	})
	get(mux, "POST /v1/targets/{target}/check", func(r *http.Request) (any, error) {
		f, err := a.relay.Flush("")
		if err != nil {
			return nil, err
		}
		return answer(f.CheckTarget(r.Context(), r.PathValue("target"), r.URL.Query().Get("try") == "1"))
	})
}

func none(err error) (any, error) { return struct{}{}, err }

// get serves a call that answers with one JSON value.
func get(mux *http.ServeMux, pattern string, fn func(*http.Request) (any, error)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		v, err := fn(r)
		if err != nil {
			writeJSONError(w, err)
			return
		}
		writeJSON(w, http.StatusOK, v)
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the other side is gone
}

func writeJSONError(w http.ResponseWriter, err error) {
	e := proto.Error{Class: proto.ClassOf(err), Message: err.Error()}
	status := e.Class.HTTPStatus()
	var missing *relay.NotFoundError
	if errors.As(err, &missing) {
		e.Class, status = proto.ClassPermanent, http.StatusNotFound
	}
	writeJSON(w, status, e)
}

func decode(r *http.Request, v any) error {
	if r.ContentLength == 0 {
		return nil
	}
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, proto.MaxMessage))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return proto.Errorf(proto.ClassPermanent, "request body: %w", err)
	}
	return nil
}

// number reads a query parameter between 1 and most; an absent or bad one is the default.
func number(r *http.Request, name string, def, most int) int {
	n, err := strconv.Atoi(r.URL.Query().Get(name))
	if err != nil || n < 1 {
		return def
	}
	return min(n, most)
}

func (a *API) events(r *http.Request) (any, error) {
	after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
	if err != nil && r.URL.Query().Get("after") != "" {
		return nil, proto.Errorf(proto.ClassPermanent, "after: want a number")
	}
	wait := time.Duration(0)
	if r.URL.Query().Get("wait") == "1" {
		wait = 30 * time.Second
	}
	out, err := a.relay.Events(r.Context(), after, number(r, "limit", 1000, 10_000), wait)
	if out == nil {
		out = []proto.Event{}
	}
	return out, err
}

func (a *API) wait(r *http.Request) (any, error) {
	q := r.URL.Query()
	token, err := strconv.ParseUint(q.Get("token"), 10, 64)
	if err != nil && q.Get("token") != "" {
		return nil, proto.Errorf(proto.ClassPermanent, "token: want a number")
	}
	forWhat := q.Get("for")
	if forWhat != "" && forWhat != "ack" && forWhat != "confirm" {
		return nil, proto.Errorf(proto.ClassPermanent, "for: want ack or confirm")
	}
	return answer(a.relay.Wait(r.PathValue("link"), token, forWhat == "ack"))
}

func (a *API) retry(r *http.Request) (any, error) {
	var paths []string
	if err := decode(r, &paths); err != nil {
		return nil, err
	}
	n, err := a.relay.Retry(r.PathValue("link"), paths)
	return map[string]int64{"objects": n}, err
}

func (a *API) pause(r *http.Request) (any, error) {
	d := units.Duration(0)
	if s := r.URL.Query().Get("for"); s != "" {
		var err error
		if d, err = units.ParseDuration(s); err != nil {
			return nil, proto.Errorf(proto.ClassPermanent, "for: %w", err)
		}
	}
	return none(a.relay.Pause(r.PathValue("link"), true, d.Std()))
}

// verify streams its lines as they are found.
func (a *API) verify(w http.ResponseWriter, r *http.Request) {
	link := r.PathValue("link")
	f, err := a.relay.Flush(link)
	if err != nil {
		writeJSONError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	out := http.NewResponseController(w)
	_ = out.Flush() // at once: whoever asks does not wait for an answer as long as it takes to read a large object
	q := r.URL.Query()
	err = f.Verify(r.Context(), link, q.Get("deep") == "1", q.Get("repair") == "1", func(l proto.VerifyLine) error {
		if err := enc.Encode(l); err != nil {
			return err
		}
		return out.Flush()
	})
	if err != nil {
		_ = enc.Encode(proto.VerifyLine{Done: true, Error: err.Error()}) // the last line says how it ended
	}
}

func (a *API) ready(w http.ResponseWriter, r *http.Request) {
	limit := units.Duration(0)
	if s := r.URL.Query().Get("lag"); s != "" {
		var err error
		if limit, err = units.ParseDuration(s); err != nil {
			writeJSONError(w, proto.Errorf(proto.ClassPermanent, "lag: %w", err))
			return
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if err := a.relay.Ready(ctx, limit.Std()); err != nil {
		writeJSON(w, http.StatusServiceUnavailable, proto.Error{Class: proto.ClassOf(err), Message: err.Error()})
		return
	}
	_, _ = w.Write([]byte("ready\n"))
}
