package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Handler serves the agent's own address: /healthz (the process lives; it waits for nothing), /v1/status and /metrics.
func (a *Agent) Handler() http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collector{a})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a.Status()) // to a client that went away
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	return mux
}

// The times that bound a request to the agent's own address.
const (
	headerTimeout = 5 * time.Second
	shutdownTime  = time.Second
)

// listen binds Config.Listen, so that a port in use is told before the agent counts as started.
func (a *Agent) listen() (err error) {
	if a.cfg.Listen == "" {
		return nil
	}
	if a.listener, err = net.Listen("tcp", a.cfg.Listen); err != nil {
		return fmt.Errorf("listen on %s for status and metrics: %w: is another agent running there? change listen: or stop it", a.cfg.Listen, err)
	}
	return nil
}

// serve answers on Config.Listen until ctx ends.
func (a *Agent) serve(ctx context.Context) error {
	if a.listener == nil {
		return nil
	}
	srv := &http.Server{Handler: a.Handler(), ReadHeaderTimeout: headerTimeout}
	done := make(chan struct{})
	go func() { // ends with ctx, or with the server
		defer close(done)
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
		defer cancel()
		_ = srv.Shutdown(stop)
	}()
	err := srv.Serve(a.listener)
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve status and metrics on %s: %w", a.cfg.Listen, err)
	}
	<-done
	return nil
}
