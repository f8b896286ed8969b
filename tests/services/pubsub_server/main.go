// Google's fake of Pub/Sub (pstest) as a process of its own, on two ports of one state.
//
// The first port is pstest as it is. Its StreamingPull sends one message a response, some tens a second. The second
// has a StreamingPull that sends many messages a response and keeps to the flow control the subscriber asks for, as the
// service does; it is made of pstest's own Pull, and everything else is pstest's.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	pb "cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

const (
	batch = 5000
	soon  = 5 * time.Millisecond  // until a stream that got nothing looks again, twice as long each time,
	late  = 80 * time.Millisecond // up to this: a look goes through all messages
)

type stream struct{ outstanding int64 }

type server struct {
	*pstest.GServer
	mu     sync.Mutex
	owners map[string]*stream // by ack id
}

func (s *server) release(ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if owner := s.owners[id]; owner != nil {
			owner.outstanding--
			delete(s.owners, id)
		}
	}
}

func (s *server) Acknowledge(ctx context.Context, req *pb.AcknowledgeRequest) (*emptypb.Empty, error) {
	out, err := s.GServer.Acknowledge(ctx, req)
	if err == nil {
		s.release(req.AckIds)
	}
	return out, err
}

func (s *server) ModifyAckDeadline(ctx context.Context, req *pb.ModifyAckDeadlineRequest) (*emptypb.Empty, error) {
	out, err := s.GServer.ModifyAckDeadline(ctx, req)
	if err == nil && req.AckDeadlineSeconds == 0 {
		s.release(req.AckIds)
	}
	return out, err
}

func (s *server) StreamingPull(sps pb.Subscriber_StreamingPullServer) error {
	first, err := sps.Recv()
	if err != nil {
		return err
	}
	ctx := sps.Context()
	sub, err := s.GetSubscription(ctx, &pb.GetSubscriptionRequest{Subscription: first.Subscription})
	if err != nil {
		return err
	}
	go func() { // heartbeats
		for {
			if _, err := sps.Recv(); err != nil {
				return
			}
		}
	}()
	mine := &stream{}
	wait := soon
	for ctx.Err() == nil {
		s.mu.Lock()
		room := int64(batch)
		if limit := first.MaxOutstandingMessages; limit > 0 {
			room = min(room, limit-mine.outstanding)
		}
		s.mu.Unlock()
		var got []*pb.ReceivedMessage
		if room > 0 {
			res, err := s.GServer.Pull(ctx, &pb.PullRequest{
				Subscription: first.Subscription, MaxMessages: int32(room), ReturnImmediately: true})
			if err != nil {
				return err
			}
			got = res.ReceivedMessages
		}
		if len(got) == 0 {
			time.Sleep(wait)
			wait = min(2*wait, late)
			continue
		}
		wait = soon
		ids := make([]string, len(got))
		s.mu.Lock()
		for i, m := range got {
			ids[i] = m.AckId
			s.owners[m.AckId] = mine
		}
		mine.outstanding += int64(len(got))
		s.mu.Unlock()
		if _, err := s.GServer.ModifyAckDeadline(ctx, &pb.ModifyAckDeadlineRequest{
			Subscription: first.Subscription, AckIds: ids, AckDeadlineSeconds: first.StreamAckDeadlineSeconds}); err != nil {
			return err
		}
		if err := sps.Send(&pb.StreamingPullResponse{
			ReceivedMessages: got,
			SubscriptionProperties: &pb.StreamingPullResponse_SubscriptionProperties{
				MessageOrderingEnabled: sub.EnableMessageOrdering},
		}); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func main() {
	plain := pstest.NewServerWithAddress("127.0.0.1:0")
	defer plain.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(20<<20), grpc.MaxSendMsgSize(1<<30))
	s := &server{GServer: &plain.GServer, owners: map[string]*stream{}}
	pb.RegisterPublisherServer(g, s)
	pb.RegisterSubscriberServer(g, s)
	pb.RegisterSchemaServiceServer(g, s)
	go func() {
		if err := g.Serve(listener); err != nil {
			log.Fatal(err)
		}
	}()
	fmt.Printf("{\"plain\": %q, \"address\": %q}\n", plain.Addr, listener.Addr().String())
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGINT, syscall.SIGTERM)
	<-ended
}
