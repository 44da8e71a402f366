// Package serve is the driver's half of the driver protocol: whoever has a target.Target makes a driver process of it with one call. It
// stands at the far end of the flow, in another process than the relay; it imports target, proto and process/wire.
//
//	func main() {
//		err := serve.Serve(ctx, os.Stdin, os.Stdout, serve.Driver{Name: "mine", Open: open}, serve.Options{})
//		...
//	}
package serve
