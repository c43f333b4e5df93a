package tasks

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Partner registers subscribers with a partner, whose HTTP API is not always available.
type Partner struct {
	DB  *pgxpool.Pool
	URL string
}

// MemberArgs are the args of [Partner.RegisterMember].
type MemberArgs struct {
	SubscriberID int64 `json:"subscriber_id"`
}

// RegisterMember registers a subscriber. While the partner is not available, the job is retried,
// after longer and longer waits. When it runs again, the partner gets the same PUT again, which
// changes nothing.
//
//backfill:task key="member:{SubscriberID}" max_attempts=10 timeout=10s backoff=exp(1s,10s)
func (p *Partner) RegisterMember(ctx context.Context, args MemberArgs) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, fmt.Sprintf("%s/members/%d", p.URL, args.SubscriberID), http.NoBody)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("ask the partner: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the partner: it answers %s", response.Status)
	}
	var member struct {
		Number string `json:"number"`
	}
	if err := json.NewDecoder(response.Body).Decode(&member); err != nil {
		return fmt.Errorf("read the partner's answer: %w", err)
	}
	_, err = p.DB.Exec(ctx, "update backfill_example.subscribers set member = $2 where id = $1", args.SubscriberID, member.Number)
	if err != nil {
		return fmt.Errorf("store the member's number: %w", err)
	}
	_, err = EnqueueAnnounceMember(ctx, AnnounceArgs{SubscriberID: args.SubscriberID, Member: member.Number})
	return err
}

// AnnounceArgs are the args of [AnnounceMember].
type AnnounceArgs struct {
	SubscriberID int64  `json:"subscriber_id"`
	Member       string `json:"member"`
}

// AnnounceMember tells the team: here in the log, elsewhere in a chat. It is a plain function: it
// needs nothing but its args. When it runs again, the team is told again.
//
//backfill:task
func AnnounceMember(ctx context.Context, args AnnounceArgs) error {
	slog.InfoContext(ctx, "the partner has a new member", slog.Int64("subscriber_id", args.SubscriberID), slog.String("member", args.Member))
	return nil
}
