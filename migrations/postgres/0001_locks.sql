-- One row per lock name, kept between holds, so that the token of a name can only rise.
create table rowlock_locks (
  name text collate "C" primary key,             -- compared byte by byte
  owner text,                                    -- who holds it: the id of one acquire or hand-off; null when released
  token bigint not null,                         -- fencing token, rises with every change of owner
  expires_at timestamptz not null,               -- held only before that moment of this server's clock
  holder text,                                   -- host:pid of the holder, for people
  session bigint,                                -- advisory lock key of the holder's session, if the lease ends with that session
  queue jsonb,                                   -- who waits, first come first; null when nobody does
  handed_to text,                                -- the process that was handed the lock and has not renewed the lease yet,
                                                 -- or the transaction that took it last
  takeover boolean not null default false,       -- whether that hand-off took it from a holder that had not released it
  permits int,                                   -- of a semaphore; null: it is a lock
  used int not null default 0                    -- the weights of all its slots together; 0 while it is held exclusively
) with (fillfactor = 50);                        -- room for HOT updates; hence also no index on expires_at

-- Shared holds, one in a slot; an exclusive hold is in the lock's row. Slots are used again, and go with their lock alone.
-- Whoever changes a weight has both rows locked FOR UPDATE, so `used` is never below what is held. A hold that has ended
-- keeps its weight until somebody else is granted something: then it comes off, unless a transaction has the slot locked. That
-- one guards the hold, has adopted it, or has released it, and so it counts until the transaction ends.
create table rowlock_slots (
  name text collate "C" not null,
  slot int not null,
  owner text,                                    -- null when released
  token bigint not null,
  weight int not null,                           -- how many permits, of a lock 1; 0: the slot is free
  expires_at timestamptz not null,
  holder text,
  session bigint,
  handed_to text,
  takeover boolean not null,
  primary key (name, slot)
) with (fillfactor = 50);

-- While transactions take a lock one after the other, its row is always locked, and no lease can queue there. Whoever waits
-- for one then closes the gate here for a moment, and transactions let it in.
create table rowlock_gates (
  name text collate "C" primary key,
  closed_until timestamptz not null,
  closed_by text not null                        -- who closed it last, and opens it again
);

-- What processes say of their calls that wait while they hold something, so that a circle of them can be found. Each writes its
-- own row, for as long as it has such calls.
create table rowlock_waits (
  process text collate "C" primary key,
  said_at timestamptz not null,                  -- by this server's clock
  waits text not null                            -- in words that processes alone understand
) with (fillfactor = 50);

-- What was done, and what a holder left to others, beside the locks: results of jobs, checkpoints, times that were claimed.
create table rowlock_marks (
  kind text collate "C" not null,
  name text collate "C" not null,                -- of a lock
  part text collate "C" not null,                -- tells those of one kind and name apart
  value text,                                    -- JSON; null: undefined
  token bigint not null,                         -- of the hold under which it was written: none with a lower one replaces it
  written_at timestamptz not null,
  expires_at timestamptz,                        -- as if it had never been from that moment on; null: never
  primary key (kind, name, part)
);

-- Functions keep the search_path of the migration: a caller with another one means these tables all the same.

-- What a function does to a shared hold it does to its slot, and locks that as it would the row of a lock: FOR UPDATE for whoever
-- takes it off, SKIP LOCKED for all. A guard locks FOR KEY SHARE, which a FOR UPDATE that waited would not keep out.

-- Whether the session with this advisory lock is gone: then it can be had.
create function rowlock_session_ended_1(key bigint) returns boolean language sql as $function$
  select case when key is null or key::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
              else pg_try_advisory_xact_lock_shared(key) end
$function$;

-- Whether anybody of the ticket is there: its time is not over, and its process has a session still, if it had one.
create function rowlock_is_alive_1(ticket jsonb) returns boolean language sql as $function$
  select (ticket->>'until')::float8 > extract(epoch from clock_timestamp()) * 1000000
         and case when not (ticket->>'provenAlive')::boolean
                    or ticket->>'process' = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then true
                  else not pg_try_advisory_xact_lock_shared((ticket->>'process')::bigint) end
$function$;

-- Whether somebody who wants so much (null: all of it) finds room beside holds that take so much.
create function rowlock_fits_1(weight int, taken int, permits int) returns boolean language sql as $function$
  select case when weight is null then taken = 0 when permits is null then true else taken + weight <= permits end
$function$;

-- Whether such a hold can be had at all, whoever holds it; `asked_permits` says whether it is to be of a lock or of a semaphore.
create function rowlock_suits_1(weight int, asked_permits int, permits int) returns boolean language sql as $function$
  select case when weight < 1 then false
              when permits is null or asked_permits is null then permits is null and asked_permits is null
              else coalesce(weight <= permits, false) end
$function$;

-- Whether shared holds, as far as one sees, leave room for the first of `waiting` who is alive. If all are dead: yes, for nobody.
create function rowlock_leaves_room_1(lock_name text, waiting jsonb, permits int) returns boolean
language sql set search_path from current as $function$
  select coalesce((
    select rowlock_fits_1(
      (t.ticket->>'weight')::int,
      (select coalesce(sum(s.weight), 0)::int from rowlock_slots as s
       where s.name = lock_name and s.owner is not null and s.expires_at > clock_timestamp() and not rowlock_session_ended_1(s.session)),
      permits)
    from jsonb_array_elements(waiting) as t(ticket)
    where rowlock_is_alive_1(t.ticket)
    limit 1), true)
$function$;

-- Shared holds that have ended and that no transaction protects; they stay locked. The caller has the lock's row. `abandoned`:
-- the weight of those that nobody has released; `missed`: the processes that have not confirmed theirs.
create function rowlock_ended_1(
  lock_name text, out slots int[], out weight int, out abandoned int, out missed text[]
) language sql set search_path from current as $function$
  select coalesce(array_agg(e.slot), '{}'), coalesce(sum(e.weight), 0)::int,
         coalesce(sum(e.weight) filter (where e.owner is not null), 0)::int,
         coalesce(array_agg(e.handed_to) filter (where e.handed_to is not null), '{}')
  from (
    select s.slot, s.weight, s.owner, s.handed_to from rowlock_slots as s
    where s.name = lock_name and s.weight > 0
      and (s.owner is null or s.expires_at <= clock_timestamp() or rowlock_session_ended_1(s.session))
    for update skip locked
  ) as e
$function$;

-- Who has shared holds that count, for people. `ended` are those that do not (rowlock_ended_1); if that is not known, those are
-- told that have not ended.
create function rowlock_sharers_1(lock_name text, ended int[]) returns json language sql set search_path from current as $function$
  select json_agg(s.holder order by s.token) from rowlock_slots as s
  where s.name = lock_name and s.weight > 0
    and case when ended is not null then s.slot <> all(ended)
             else s.owner is not null and s.expires_at > clock_timestamp() and not rowlock_session_ended_1(s.session) end
$function$;

-- Frees slots, which the caller has locked, together with the lock's row, from whose `used` it takes the weights.
create function rowlock_free_1(lock_name text, ended int[]) returns void language sql set search_path from current as $function$
  update rowlock_slots as s
  set owner = null, weight = 0, session = null, handed_to = null, expires_at = least(s.expires_at, clock_timestamp())
  where s.name = lock_name and s.slot = any(ended)
$function$;

-- Puts a shared hold into the first slot that is free. The caller has the lock's row, so nobody else makes a slot meanwhile.
create function rowlock_put_1(
  lock_name text, new_owner text, new_token bigint, new_weight int, new_expiry timestamptz,
  new_holder text, new_session bigint, new_handed_to text, new_takeover boolean
) returns int language plpgsql set search_path from current as $function$
declare
  place int;
begin
  -- One that is free may be locked all the same, by a guard that found that out when it had it.
  select s.slot from rowlock_slots as s where s.name = lock_name and s.weight = 0 order by s.slot limit 1 for update skip locked
  into place;
  if place is null then
    select coalesce(max(s.slot), 0) + 1 from rowlock_slots as s where s.name = lock_name into place;
  end if;
  insert into rowlock_slots as s (name, slot, owner, token, weight, expires_at, holder, session, handed_to, takeover)
  values (lock_name, place, new_owner, new_token, new_weight, new_expiry, new_holder, new_session, new_handed_to, new_takeover)
  on conflict (name, slot) do update
  set owner = excluded.owner, token = excluded.token, weight = excluded.weight, expires_at = excluded.expires_at,
      holder = excluded.holder, session = excluded.session, handed_to = excluded.handed_to, takeover = excluded.takeover;
  return place;
end
$function$;

-- Hands over to the first waiters that are alive, as many as fit. The caller has the row of the lock locked FOR UPDATE, and
-- nobody holds it exclusively any more: that hold has run out, or, `is_released`, it ends here.
--
-- grants: what was handed over, null if nothing was. blocked: the next would fit if it were not for open transactions.
create function rowlock_hand_over_1(
  lock_name text, own_process text, is_released boolean, out grants jsonb, out blocked boolean
) language plpgsql set search_path from current as $function$
declare
  clock constant bigint := extract(epoch from clock_timestamp()) * 1000000;
  l record;
  ended int[] := '{}';
  ended_weight int := 0;
  abandoned int := 0;
  missed text[] := '{}';
  taken int;
  unprotected int;
  token_before bigint;
  waiting jsonb;
  is_abandoned boolean;
  ticket jsonb;
  place bigint;
  wanted int;
  new_owner text;
  new_expiry timestamptz;
  new_slot int;
  new_takeover boolean;
  granted jsonb;
  ignored text;
begin
  select * from rowlock_locks as k where k.name = lock_name into l;
  waiting := l.queue;
  token_before := l.token;
  is_abandoned := l.owner is not null and not is_released;
  if l.used > 0 then
    select * from rowlock_ended_1(lock_name) into ended, ended_weight, abandoned, missed;
  elsif is_abandoned and l.handed_to is not null then
    missed := array[l.handed_to];
  end if;
  taken := l.used - ended_weight;
  -- A hand-off that ran out unconfirmed: its process is gone or stands still, so none of its waiters is next.
  if missed <> '{}' and waiting is not null then
    select jsonb_agg(t.ticket order by t.position) from jsonb_array_elements(waiting) with ordinality as t(ticket, position)
    where t.ticket->>'process' <> all(missed)
    into waiting;
  end if;
  blocked := false;

  while waiting is not null loop
    -- LIMIT without ORDER BY: the elements come in their order, and sorting them would ask for all of them whether they live.
    select t.ticket, t.position from jsonb_array_elements(waiting) with ordinality as t(ticket, position)
    where rowlock_is_alive_1(t.ticket)
    limit 1
    into ticket, place;
    if not found then
      if grants is null then
        waiting := null;
      end if;
      exit;
    end if;
    wanted := (ticket->>'weight')::int;
    -- WHO GETS THE LOCK next: the first who waits, if there is room, and then the first of the rest. Nobody passes who has to wait on.
    if not rowlock_fits_1(wanted, taken, l.permits) then
      -- Protected are those that have ended all the same.
      select taken - coalesce(sum(s.weight), 0)::int from rowlock_slots as s
      where s.name = lock_name and s.weight > 0 and s.token <= token_before and s.slot <> all(ended)
        and (s.owner is null or s.expires_at <= clock_timestamp() or rowlock_session_ended_1(s.session))
      into unprotected;
      blocked := rowlock_fits_1(wanted, unprotected, l.permits);
      exit;
    end if;
    if grants is null and ended_weight > 0 then
      perform rowlock_free_1(lock_name, ended);
    end if;
    new_takeover := is_abandoned or not rowlock_fits_1(wanted, taken + abandoned, l.permits);
    l.token := greatest(l.token + 1, clock);
    new_owner := (ticket->>'id') || lpad(to_hex(l.token), 16, '0');
    new_expiry := clock_timestamp() + least((ticket->>'ttl')::float8, 1000) * interval '1 ms';
    if wanted is not null then
      new_slot := rowlock_put_1(lock_name, new_owner, l.token, wanted, new_expiry, ticket->>'holder',
                                (ticket->>'session')::bigint, ticket->>'process', new_takeover);
      taken := taken + wanted;
    end if;
    granted := jsonb_build_object('owner', new_owner, 'token', l.token::text, 'process', ticket->>'process',
                                  'takeover', new_takeover, 'weight', wanted, 'slot', new_slot,
                                  'checkpointed', wanted is null and exists (
                                    select from rowlock_marks as m where m.kind = 'checkpoint' and m.name = lock_name));
    grants := coalesce(grants, '[]') || (granted || jsonb_build_object(
      'remaining', extract(epoch from new_expiry - clock_timestamp())::float8 * 1000));
    if (ticket->>'listening')::boolean and ticket->>'process' <> own_process then
      perform pg_notify('rowlock_' || (ticket->>'process'), (granted || jsonb_build_object(
        'name', lock_name, 'expiresAt', extract(epoch from new_expiry)::float8 * 1000))::text);
    end if;
    if (ticket->>'n')::int > 1 then
      waiting := jsonb_set(jsonb_path_query_array(waiting, ('$[' || place - 1 || ' to last]')::jsonpath),
                           '{0,n}', to_jsonb((ticket->>'n')::int - 1));
    else
      waiting := nullif(jsonb_path_query_array(waiting, ('$[' || place || ' to last]')::jsonpath), '[]');
    end if;
    exit when wanted is null;
  end loop;

  if grants is null then
    if l.used > 0 and missed <> '{}' then
      update rowlock_slots as s set handed_to = null where s.name = lock_name and s.slot = any(ended);
    end if;
    update rowlock_locks as k
    set owner = case when is_abandoned then k.owner end,
        session = case when is_abandoned then k.session end,
        expires_at = case when is_released then least(k.expires_at, clock_timestamp()) else k.expires_at end,
        handed_to = null, queue = waiting
    where k.name = lock_name;
  elsif new_slot is null then
    update rowlock_locks as k
    set owner = new_owner, token = l.token, expires_at = new_expiry, holder = ticket->>'holder',
        session = (ticket->>'session')::bigint, handed_to = ticket->>'process', takeover = new_takeover, queue = waiting, used = 0
    where k.name = lock_name;
  else
    update rowlock_locks as k
    set owner = null, token = l.token, session = null, handed_to = null, queue = waiting, used = taken,
        expires_at = least(k.expires_at, clock_timestamp())
    where k.name = lock_name;
  end if;
  if grants is not null and current_setting('synchronous_commit') = 'off' then
    -- Who is told of a grant counts on it.
    ignored := set_config('synchronous_commit', 'on', true);
  end if;
end
$function$;

-- Takes a lock in the caller's transaction, in one message. What has to be undone is undone in a subtransaction of the
-- function's own, so that nothing else that happens on the connection is undone with it.
--
-- Transactions wait for each other at an advisory lock, in its order, where the engine finds deadlocks. Whoever has it waits
-- for the row only while a guard or a statement of a lease has that locked. Who is refused keeps neither: the holder of the
-- lock has to renew.
--
-- outcome: 'granted', 'refused' (by leases: `holders` have it, or, `queued`, wait for it and come first; or it is no lock but
-- has `permits`), or 'locked' (the wait is over).
create function rowlock_within_1(
  lock_name text, new_owner text, ttl_ms float8, new_holder text, wait_ms float8,
  out outcome text, out token text, out owner text, out holders json, out queued boolean, out permits int, out idle_limit_ms float8
) language plpgsql set search_path from current as $function$
declare
  -- Advisory locks belong to the whole database, so the table is part of the key.
  advisory_key constant bigint := hashtextextended('rowlock_locks'::regclass::oid || ' ' || lock_name, 7239615);
  -- No other transaction has both this id and this start: a row that says so was written by this one.
  this_transaction constant text := 'transaction ' || pg_current_xact_id() || ' ' || extract(epoch from now());
  lock_timeout_before constant text := current_setting('lock_timeout');
  -- A running statement cannot lift this limit, so it waits for less, and is asked again.
  statement_limit_ms constant float8 := extract(epoch from current_setting('statement_timeout')::interval) * 1000;
  asked_at constant timestamptz := clock_timestamp();
  limit_ms float8 := case when statement_limit_ms > 0 then least(wait_ms, statement_limit_ms * 0.8) else wait_ms end;
  is_ours boolean;
  was_handed boolean;
  shared int;
  ended int[];
  ended_weight int;
  ignored text;
begin
  begin
    if wait_ms > 0 then
      ignored := set_config('lock_timeout', ceil(limit_ms)::text, true);
      ignored := pg_advisory_xact_lock(advisory_key);
      limit_ms := limit_ms - extract(epoch from clock_timestamp() - asked_at) * 1000;
    elsif not pg_try_advisory_xact_lock(advisory_key) then
      outcome := 'locked';
      return;
    end if;
    ignored := set_config('lock_timeout', ceil(greatest(limit_ms, 1))::text, true);
    if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
      -- What has changed since the snapshot was taken is an error here; the select below would judge by what the snapshot has.
      perform from rowlock_locks as l where l.name = lock_name for no key update;
    end if;
    loop
      -- WHO GETS THE LOCK: a hold of this transaction stays what it is; what was handed to it becomes its own; and what is
      -- free goes to it unless leases wait. FOR UPDATE, and no less, waits for a guard that is still open.
      select l.handed_to = this_transaction, l.owner = new_owner, l.used from rowlock_locks as l
      where l.name = lock_name and l.permits is null
        and (l.handed_to = this_transaction
             or l.owner = new_owner
             or (l.owner is null or l.expires_at <= clock_timestamp()
                 or case when l.session is not null then pg_try_advisory_xact_lock_shared(l.session) end)
                and (l.queue is null or not l.queue @@ 'exists($[*] ? (!exists(@.transaction)))')
                and not exists (select from rowlock_gates as g where g.name = lock_name and g.closed_until > clock_timestamp()))
      for update
      into is_ours, was_handed, shared;
      if shared > 0 then
        select e.slots, e.weight from rowlock_ended_1(lock_name) as e into ended, ended_weight;
        if ended_weight < shared then
          -- What is assigned stays when the rest is undone.
          holders := rowlock_sharers_1(lock_name, ended);
          raise exception using errcode = 'RLREF', message = 'rowlock: the lock is shared';
        end if;
        perform rowlock_free_1(lock_name, ended);
      end if;
      if shared is not null then
        update rowlock_locks as l
        set owner = case when ttl_ms is not null then case when is_ours then coalesce(l.owner, new_owner) else new_owner end
                         when is_ours then l.owner end,
            token = case when is_ours or was_handed then l.token
                         else greatest(l.token + 1, (extract(epoch from clock_timestamp()) * 1000000)::bigint) end,
            expires_at = case when is_ours and ttl_ms is null then l.expires_at
                              else clock_timestamp() + coalesce(ttl_ms, 0) * interval '1 ms' end,
            holder = new_holder, session = null, handed_to = this_transaction, takeover = false, used = 0
        where l.name = lock_name
        returning l.token, coalesce(l.owner, new_owner) into token, owner;
        outcome := 'granted';
        exit;
      end if;
      -- Nobody else creates it meanwhile: that takes the advisory lock.
      if exists (select from rowlock_locks as l where l.name = lock_name) then
        raise exception using errcode = 'RLREF', message = 'rowlock: the lock is not free';
      end if;
      insert into rowlock_locks as l (name, token, expires_at) values (lock_name, 0, clock_timestamp()) on conflict do nothing;
    end loop;
    ignored := set_config('lock_timeout', lock_timeout_before, true);
  exception
    when sqlstate 'RLREF' then
      outcome := 'refused';
      idle_limit_ms := extract(epoch from current_setting('idle_in_transaction_session_timeout')::interval) * 1000;
      select l.permits,
             case when s.is_held then json_build_array(l.holder)
                  when l.used > 0 then coalesce(rowlock_within_1.holders, rowlock_sharers_1(lock_name, null)) end,
             case when s.is_held then false
                  when l.used = 0 then true
                  else l.queue @@ 'exists($[*] ? (!exists(@.transaction)))' and rowlock_leaves_room_1(lock_name, l.queue, null) end
      from rowlock_locks as l, lateral (
        select l.owner is not null and l.expires_at > clock_timestamp()
               and not case when l.session is null then false else pg_try_advisory_xact_lock_shared(l.session) end as is_held
      ) as s
      where l.name = lock_name
      into permits, holders, queued;
    when lock_not_available then
      outcome := 'locked';
  end;
end
$function$;

-- Takes the first of several locks in the caller's transaction: in the order of the array, up to one that cannot be had at
-- once. Waits for nothing. What is waited for, or was shared, goes through rowlock_within_1, one by one; this takes no advisory lock that
-- stays, since the shared memory for those is small: a row that is locked keeps everybody out as well.
--
-- tokens: of those that were taken. missing: the next one has no row.
create function rowlock_within_free_1(lock_names text[], new_holder text, out tokens text[], out missing boolean)
language plpgsql set search_path from current as $function$
declare
  table_oid constant text := 'rowlock_locks'::regclass::oid;
  this_transaction constant text := 'transaction ' || pg_current_xact_id() || ' ' || extract(epoch from now());
  taken int := cardinality(lock_names);
  tried int;
  is_ours boolean;
  is_free boolean;
  token text;
begin
  loop
    begin
      tokens := '{}';
      missing := false;
      for i in 1..taken loop
        tried := i;
        -- Looked at before: the row of a lock that somebody else holds, or waits for, is not locked. Transactions that wait
        -- for it have its advisory lock, or wait for that, and come first. One that can be had is given back at once, in
        -- the same expression, which nothing interrupts.
        select l.handed_to = this_transaction, l.token::text,
               l.used = 0 and l.permits is null
               and (l.owner is null or l.expires_at <= clock_timestamp()
                    or case when l.session is not null then pg_try_advisory_xact_lock_shared(l.session) end)
               and (l.queue is null or not l.queue @@ 'exists($[*] ? (!exists(@.transaction)))')
               and not exists (select from rowlock_gates as g where g.name = l.name and g.closed_until > clock_timestamp())
               and case when pg_try_advisory_lock(hashtextextended(table_oid || ' ' || l.name, 7239615))
                        then pg_advisory_unlock(hashtextextended(table_oid || ' ' || l.name, 7239615)) end
        from rowlock_locks as l
        where l.name = lock_names[i]
        into is_ours, token, is_free;
        missing := not found;
        exit when missing or (is_ours is not true and is_free is not true);
        if is_ours is not true then
          -- WHO GETS THE LOCK: of several, as in rowlock_within_1 of one. Judged as locked.
          perform from rowlock_locks as l
          where l.name = lock_names[i] and l.used = 0 and l.permits is null
            and (l.owner is null or l.expires_at <= clock_timestamp()
                 or case when l.session is not null then pg_try_advisory_xact_lock_shared(l.session) end)
            and (l.queue is null or not l.queue @@ 'exists($[*] ? (!exists(@.transaction)))')
          for update skip locked;
          -- Somebody has come in between, whose row may be locked now: undone, with all that was taken, which is taken again.
          if not found then
            raise exception using errcode = 'RLREF', message = 'rowlock: the lock is not free';
          end if;
          update rowlock_locks as l
          set owner = null,
              token = greatest(l.token + 1, (extract(epoch from clock_timestamp()) * 1000000)::bigint),
              expires_at = clock_timestamp(),
              holder = new_holder, session = null, handed_to = this_transaction, takeover = false
          where l.name = lock_names[i]
          returning l.token::text into token;
        end if;
        tokens := tokens || token;
      end loop;
      return;
    exception
      when sqlstate 'RLREF' then
        taken := tried - 1;
    end;
  end loop;
end
$function$;

-- Takes a lock for a lease, if it is free and nobody waits for it. Waits for nothing itself. The verbs of a single caller are
-- functions, since most drivers and ORMs prepare nothing, and planning such a statement takes longer than executing it.
--
-- Either a token, or who holds the lock; or `queued`: others wait for it, and nobody is in the way of the first of them; or
-- `ours`: this owner has it already, but the row is locked at this moment; or `permits`: it is no lock.
create function rowlock_acquire_1(
  lock_name text, new_owner text, ttl_ms float8, new_holder text, new_session bigint,
  out token text, out takeover boolean, out checkpointed boolean, out holders json, out queued boolean, out ours boolean,
  out permits int
) language plpgsql set search_path from current as $function$
declare
  place tid;
  shared int;
  ended int[];
  ended_weight int;
  abandoned int := 0;
  ignored text;
begin
  -- WHO GETS THE LOCK: whoever finds it free, with nobody waiting, and an attempt that is repeated finds its own. Free is what
  -- was released, what has run out, and what was held by a session that is gone: its advisory lock can be had.
  select l.ctid, l.used from rowlock_locks as l
  where l.name = lock_name and l.permits is null
    and (l.owner = new_owner
         or l.queue is null
            and (l.owner is null or l.expires_at <= clock_timestamp()
                 or case when l.session is null
                           or l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
                         else pg_try_advisory_xact_lock_shared(l.session) end))
  for update skip locked
  into place, shared;
  if shared > 0 then
    select e.slots, e.weight, e.abandoned from rowlock_ended_1(lock_name) as e into ended, ended_weight, abandoned;
    if ended_weight < shared then
      place := null;
    else
      perform rowlock_free_1(lock_name, ended);
    end if;
  end if;
  if place is not null then
    update rowlock_locks as l
    set owner = new_owner,
        token = case when l.owner = new_owner then l.token
                     else greatest(l.token + 1, (extract(epoch from clock_timestamp()) * 1000000)::bigint) end,
        expires_at = clock_timestamp() + ttl_ms * interval '1 ms',
        holder = new_holder,
        session = new_session,
        handed_to = null,
        takeover = case when l.owner = new_owner then l.takeover else l.owner is not null or abandoned > 0 end,
        used = 0
    where l.ctid = place
    returning l.token, l.takeover into token, takeover;
  else
    select case when l.permits is not null then null
                when not s.is_free then json_build_array(l.holder)
                when l.used > 0 then rowlock_sharers_1(lock_name, ended) end,
           case when l.permits is not null or l.queue is null or not s.is_free then false
                else l.used = 0 or rowlock_leaves_room_1(lock_name, l.queue, null) end,
           l.owner is not distinct from new_owner, l.permits
    from rowlock_locks as l, lateral (
      select l.owner is null or l.expires_at <= clock_timestamp()
             or case when l.session is null
                       or l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
                     else pg_try_advisory_xact_lock_shared(l.session) end as is_free
    ) as s
    where l.name = lock_name
    into holders, queued, ours, permits;
    -- Two inserts of one new name would wait for each other's transactions.
    if not found and pg_try_advisory_xact_lock(hashtextextended('rowlock_locks'::regclass::oid || ' ' || lock_name, 7239615)) then
      insert into rowlock_locks as l (name, owner, token, expires_at, holder, session)
      values (lock_name, new_owner, (extract(epoch from clock_timestamp()) * 1000000)::bigint,
              clock_timestamp() + ttl_ms * interval '1 ms', new_holder, new_session)
      on conflict do nothing
      returning l.token, l.takeover into token, takeover;
    end if;
  end if;
  if token is not null then
    -- Looked at now that the row is locked: whoever held it has left what it leaves.
    checkpointed := exists (select from rowlock_marks as m where m.kind = 'checkpoint' and m.name = lock_name);
    if current_setting('synchronous_commit') = 'off' then
      -- Who is told of a grant counts on it.
      ignored := set_config('synchronous_commit', 'on', true);
    end if;
  end if;
end
$function$;

-- Takes a shared hold of a lock, or permits of a semaphore, if they fit beside those that others have, and nobody waits. Waits
-- for nothing. Answers as rowlock_acquire_1 does; `permits` also if those that are asked for are more, or none.
create function rowlock_share_1(
  lock_name text, new_owner text, wanted int, asked_permits int, ttl_ms float8, new_holder text, new_session bigint,
  out token text, out slot int, out takeover boolean,
  out holders json, out queued boolean, out ours boolean, out unfit boolean, out permits int
) language plpgsql set search_path from current as $function$
declare
  clock constant bigint := extract(epoch from clock_timestamp()) * 1000000;
  l record;
  own_token bigint;
  own_weight int := 0;
  ended int[];
  ended_weight int := 0;
  abandoned int := 0;
  taken int;
  next_token bigint;
  new_expiry timestamptz;
  is_held boolean;
  is_standing boolean := false;
  is_locked boolean;
  fits boolean := false;
  ignored text;
begin
  select * from rowlock_locks as k where k.name = lock_name for update skip locked into l;
  is_locked := not found;
  if is_locked then
    select * from rowlock_locks as k where k.name = lock_name into l;
  end if;
  if not found then
    permits := asked_permits;
    unfit := not rowlock_suits_1(wanted, asked_permits, asked_permits);
    -- Two inserts of one new name would wait for each other's transactions.
    if unfit or not pg_try_advisory_xact_lock(hashtextextended('rowlock_locks'::regclass::oid || ' ' || lock_name, 7239615)) then
      return;
    end if;
    insert into rowlock_locks as k (name, token, expires_at, permits) values (lock_name, 0, clock_timestamp(), asked_permits)
    on conflict do nothing
    returning * into l;
    if not found then
      return;
    end if;
    is_locked := false;
  end if;
  permits := l.permits;
  unfit := not rowlock_suits_1(wanted, asked_permits, l.permits);
  if unfit then
    return;
  end if;

  is_held := l.owner is not null and l.expires_at > clock_timestamp() and not rowlock_session_ended_1(l.session);
  if l.used > 0 then
    if not is_locked then
      select e.slots, e.weight, e.abandoned from rowlock_ended_1(lock_name) as e into ended, ended_weight, abandoned;
    end if;
    select s.slot, s.token, s.takeover, s.expires_at > clock_timestamp() and not rowlock_session_ended_1(s.session),
           case when s.slot = any(ended) then 0 else s.weight end
    from rowlock_slots as s where s.name = lock_name and s.owner = new_owner
    into slot, own_token, takeover, is_standing, own_weight;
    if found then
      if not is_locked then
        perform from rowlock_slots as s where s.name = lock_name and s.slot = rowlock_share_1.slot for update skip locked;
        is_locked := not found;
      end if;
    else
      own_weight := 0;
    end if;
  end if;
  -- What others have.
  taken := l.used - ended_weight - own_weight;
  fits := not is_held and rowlock_fits_1(wanted, taken, l.permits);
  -- WHO GETS THE LOCK: whoever fits beside those who have it, with nobody waiting; or who has it by this very attempt.
  ours := slot is not null and (fits or is_standing);
  if is_locked or not (ours or fits and l.queue is null) then
    slot := null;
    takeover := null;
    -- Nobody if it would fit: then the row is locked for a moment, or by a transaction.
    holders := case when fits and l.queue is null and not ours then null
                    when is_held then json_build_array(l.holder)
                    when l.used > 0 then rowlock_sharers_1(lock_name, ended) end;
    queued := l.queue is not null and not is_held and rowlock_leaves_room_1(lock_name, l.queue, l.permits);
    return;
  end if;

  new_expiry := clock_timestamp() + ttl_ms * interval '1 ms';
  if ended_weight > 0 then
    perform rowlock_free_1(lock_name, array_remove(ended, slot));
  end if;
  if slot is null then
    takeover := l.owner is not null or not rowlock_fits_1(wanted, taken + abandoned, l.permits);
    next_token := greatest(l.token + 1, clock);
    slot := rowlock_put_1(lock_name, new_owner, next_token, wanted, new_expiry, new_holder, new_session, null, takeover);
  else
    next_token := own_token;
    update rowlock_slots as s
    set weight = wanted, expires_at = new_expiry, holder = new_holder, session = new_session, handed_to = null
    where s.name = lock_name and s.slot = rowlock_share_1.slot;
  end if;
  update rowlock_locks as k
  set owner = null, session = null, handed_to = null, token = greatest(k.token, next_token), used = taken + wanted,
      expires_at = least(k.expires_at, clock_timestamp())
  where k.name = lock_name;
  token := next_token;
  if current_setting('synchronous_commit') = 'off' then
    ignored := set_config('synchronous_commit', 'on', true);
  end if;
end
$function$;

-- Releases a lease, and hands the lock over to those who are next. Waits for nothing.
--
-- outcome: 'released', 'lost', or 'locked' (ours, but the row is locked at this moment). promote_later: others wait, but a
-- guarded transaction is open, so that nobody can be given the lock. grants: see rowlock_hand_over_1.
create function rowlock_release_1(
  lock_name text, old_owner text, old_token bigint, own_process text,
  out outcome text, out promote_later boolean, out grants jsonb
) language plpgsql set search_path from current as $function$
declare
  place tid;
  is_awaited boolean;
begin
  outcome := 'released';
  promote_later := false;
  select l.ctid, l.queue is not null from rowlock_locks as l
  where l.name = lock_name and l.owner = old_owner and l.token = old_token
  for update skip locked
  into place, is_awaited;
  if is_awaited then
    select h.grants, h.blocked from rowlock_hand_over_1(lock_name, own_process, true) as h into grants, promote_later;
    return;
  end if;
  if place is null then
    -- A guard lets a weaker lock pass.
    select l.ctid, l.queue is not null from rowlock_locks as l
    where l.name = lock_name and l.owner = old_owner and l.token = old_token
    for no key update skip locked
    into place, promote_later;
  end if;
  update rowlock_locks as l
  set owner = null, session = null, handed_to = null, takeover = false, expires_at = least(l.expires_at, clock_timestamp())
  where l.ctid = place;
  if not found then
    promote_later := false;
    outcome := case when exists (
      select from rowlock_locks as l where l.name = lock_name and l.owner = old_owner and l.token = old_token
    ) then 'locked' else 'lost' end;
  end if;
end
$function$;

-- The same of a shared hold. Its weight comes off at once, unless a transaction guards it, or has the lock's row locked.
create function rowlock_unshare_1(
  lock_name text, place int, old_owner text, old_token bigint, own_process text,
  out outcome text, out promote_later boolean, out grants jsonb
) language plpgsql set search_path from current as $function$
declare
  is_awaited boolean;
  is_locked boolean;
  ending timestamptz;
  weight_back int;
begin
  outcome := 'released';
  select l.queue is not null from rowlock_locks as l where l.name = lock_name for update skip locked into is_awaited;
  is_locked := not found;
  if not is_locked then
    select s.weight, least(s.expires_at, clock_timestamp()) from rowlock_slots as s
    where s.name = lock_name and s.slot = place and s.owner = old_owner and s.token = old_token
    for update skip locked
    into weight_back, ending;
  end if;
  if weight_back is null then
    select 0, least(s.expires_at, clock_timestamp()) from rowlock_slots as s
    where s.name = lock_name and s.slot = place and s.owner = old_owner and s.token = old_token
    for no key update skip locked
    into weight_back, ending;
  end if;
  update rowlock_slots as s
  set owner = null, session = null, handed_to = null, expires_at = ending, weight = s.weight - weight_back
  where s.name = lock_name and s.slot = place and weight_back is not null;
  if not found then
    promote_later := false;
    outcome := case when exists (
      select from rowlock_slots as s
      where s.name = lock_name and s.slot = place and s.owner = old_owner and s.token = old_token
    ) then 'locked' else 'lost' end;
  elsif is_locked then
    select l.queue is not null from rowlock_locks as l where l.name = lock_name into promote_later;
  else
    update rowlock_locks as l set used = l.used - weight_back, expires_at = greatest(l.expires_at, ending) where l.name = lock_name;
    select h.grants, h.blocked from rowlock_hand_over_1(lock_name, own_process, false) as h into grants, promote_later;
  end if;
end
$function$;

-- Hands over what nobody holds any more. Waits for nothing.
--
-- outcome: 'handed over', 'idle' (nobody waits), 'held' (by somebody who is in the way of the first who waits) or 'locked'.
create function rowlock_promote_1(lock_name text, own_process text, out outcome text, out grants jsonb)
language plpgsql set search_path from current as $function$
declare
  blocked boolean;
begin
  for tries in 1..2 loop
    select case when s.is_held then 'held'
                when l.queue is not null and (l.used = 0 or rowlock_leaves_room_1(lock_name, l.queue, l.permits)) then 'locked'
                when l.used > 0 and rowlock_sharers_1(lock_name, null) is not null then 'held'
                else 'idle' end
    from rowlock_locks as l, lateral (
      select l.owner is not null and l.expires_at > clock_timestamp() and not rowlock_session_ended_1(l.session) as is_held
    ) as s
    where l.name = lock_name
    into outcome;
    exit when tries = 2 or outcome is distinct from 'locked';
    -- Judged once more as locked.
    perform from rowlock_locks as l
    where l.name = lock_name and l.queue is not null
      and (l.owner is null or l.expires_at <= clock_timestamp() or rowlock_session_ended_1(l.session))
    for update skip locked;
    if found then
      select h.grants, h.blocked from rowlock_hand_over_1(lock_name, own_process, false) as h into grants, blocked;
      if grants is not null then
        outcome := 'handed over';
      end if;
      exit when grants is not null or blocked;
    end if;
  end loop;
  outcome := coalesce(outcome, 'idle');
end
$function$;

-- Makes a shared hold of an exclusive one, and hands over to the readers who are next. Waits for nothing.
--
-- outcome: 'downgraded', 'lost', or 'locked' (ours, but the row is locked at this moment).
create function rowlock_downgrade_1(
  lock_name text, old_owner text, old_token bigint, own_process text, out outcome text, out slot int, out grants jsonb
) language plpgsql set search_path from current as $function$
declare
  l record;
begin
  select * from rowlock_locks as k
  where k.name = lock_name and k.owner = old_owner and k.token = old_token and k.expires_at > clock_timestamp()
  for update skip locked
  into l;
  if found then
    outcome := 'downgraded';
    slot := rowlock_put_1(lock_name, l.owner, l.token, 1, l.expires_at, l.holder, l.session, null, l.takeover);
    update rowlock_locks as k
    set owner = null, session = null, handed_to = null, expires_at = clock_timestamp(), used = 1
    where k.name = lock_name;
    select h.grants from rowlock_hand_over_1(lock_name, own_process, false) as h into grants;
    return;
  end if;
  -- Asked again, since the first answer was lost.
  select s.slot from rowlock_slots as s
  where s.name = lock_name and s.owner = old_owner and s.token = old_token and s.expires_at > clock_timestamp()
  into slot;
  outcome := case when slot is not null then 'downgraded'
                  when exists (
                    select from rowlock_locks as k
                    where k.name = lock_name and k.owner = old_owner and k.token = old_token and k.expires_at > clock_timestamp()
                  ) then 'locked'
                  else 'lost' end;
end
$function$;

-- Makes a semaphore with so many permits if the name is not known. What it has; null: it is a lock.
create function rowlock_open_1(lock_name text, new_permits int) returns int
language plpgsql set search_path from current as $function$
declare
  found_permits int;
begin
  for tries in 1..2 loop
    select l.permits from rowlock_locks as l where l.name = lock_name into found_permits;
    if found then
      return found_permits;
    end if;
    -- Two inserts of one new name would wait for each other's transactions.
    exit when not pg_try_advisory_xact_lock(hashtextextended('rowlock_locks'::regclass::oid || ' ' || lock_name, 7239615));
    insert into rowlock_locks (name, token, expires_at, permits) values (lock_name, 0, clock_timestamp(), new_permits)
    on conflict do nothing;
  end loop;
  raise exception using errcode = 'lock_not_available', message = 'rowlock: somebody is making a lock of that name';
end
$function$;

-- Changes how many permits a semaphore has, and hands over those that are there now. Waits for nothing.
--
-- outcome: 'resized', 'lock' (it is none), or 'locked'.
create function rowlock_resize_1(
  lock_name text, new_permits int, own_process text, out outcome text, out grants jsonb
) language plpgsql set search_path from current as $function$
begin
  begin
    if rowlock_open_1(lock_name, new_permits) is null then
      outcome := 'lock';
      return;
    end if;
  exception
    when lock_not_available then
      outcome := 'locked';
      return;
  end;
  perform from rowlock_locks as l where l.name = lock_name and l.permits is not null for update skip locked;
  if not found then
    outcome := 'locked';
    return;
  end if;
  -- Who waits for more than there are would wait for ever, with everybody behind it.
  update rowlock_locks as l
  set permits = new_permits, expires_at = clock_timestamp(),
      queue = (
        select jsonb_agg(t.ticket order by t.position) from jsonb_array_elements(l.queue) with ordinality as t(ticket, position)
        where (t.ticket->>'weight')::int <= new_permits)
  where l.name = lock_name;
  select h.grants from rowlock_hand_over_1(lock_name, own_process, false) as h into grants;
  outcome := 'resized';
end
$function$;

-- Frees a lock, whoever holds it; or, if there is a token, what is held under that. Waits for nothing.
--
-- 'released', 'free' (nobody held it), or 'locked' (a transaction protects a hold).
create function rowlock_force_release_1(lock_name text, only_token bigint)
returns text language plpgsql set search_path from current as $function$
declare
  shared int;
  evicted int;
  slots int[];
  weights int;
begin
  if not exists (select from rowlock_locks as l
                 where l.name = lock_name and l.owner is not null and l.expires_at > clock_timestamp()
                   and (only_token is null or l.token = only_token))
     and not exists (select from rowlock_slots as s
                     where s.name = lock_name and s.owner is not null and s.expires_at > clock_timestamp()
                       and (only_token is null or s.token = only_token)) then
    return 'free';
  end if;
  select l.used from rowlock_locks as l where l.name = lock_name for update skip locked into shared;
  if shared is null then
    return 'locked';
  end if;
  select coalesce(sum(s.weight), 0)::int from rowlock_slots as s
  where shared > 0 and s.name = lock_name and s.weight > 0 and (only_token is null or s.token = only_token)
  into evicted;
  if evicted > 0 then
    select array_agg(s.slot), coalesce(sum(s.weight), 0)::int
    from (select k.slot, k.weight from rowlock_slots as k
          where k.name = lock_name and k.weight > 0 and (only_token is null or k.token = only_token)
          for update skip locked) as s
    into slots, weights;
    if weights < evicted then
      return 'locked';
    end if;
    perform rowlock_free_1(lock_name, slots);
  end if;
  update rowlock_locks as l
  set owner = null, session = null, handed_to = null, used = l.used - evicted, expires_at = clock_timestamp(),
      token = greatest(l.token + 1, (extract(epoch from clock_timestamp()) * 1000000)::bigint)
  where l.name = lock_name and (only_token is null or evicted > 0 or l.owner is not null and l.token = only_token);
  -- It has ended since, and somebody else may have the lock.
  return case when found then 'released' else 'free' end;
end
$function$;

-- Deletes locks that have been free for so long, and that nobody waits for any more, with their slots; answers how many. Never
-- one whose token is ahead of the clock: a new row of that name would start at the clock, below it. And what processes that
-- are gone have said of their waits.
create function rowlock_purge_1(idle_ms float8) returns int language plpgsql set search_path from current as $function$
declare
  idle_since constant timestamptz := clock_timestamp() - idle_ms * interval '1 ms';
  clock constant bigint := extract(epoch from clock_timestamp()) * 1000000;
  ended int[];
  ended_weight int;
  l record;
  purged int;
begin
  -- First, the weights of shared holds that have ended come off.
  for l in
    select k.name from rowlock_locks as k
    where k.used > 0 and k.expires_at <= idle_since and k.token < clock
      and not exists (select from rowlock_slots as s where s.name = k.name and s.weight > 0 and s.expires_at > idle_since)
      and not exists (select from jsonb_array_elements(k.queue) as t where (t->>'until')::float8 > clock)
    order by k.name
  loop
    select k.name, k.used from rowlock_locks as k where k.name = l.name for update skip locked into l;
    continue when not found;
    select e.slots, e.weight from rowlock_ended_1(l.name) as e into ended, ended_weight;
    -- As locked: somebody may have got some of it.
    if ended_weight = l.used
       and not exists (select from rowlock_slots as s where s.name = l.name and s.weight > 0 and s.expires_at > idle_since) then
      perform rowlock_free_1(l.name, ended);
      update rowlock_locks as k set used = 0 where k.name = l.name;
    end if;
  end loop;

  with idle as materialized (
    select k.name from rowlock_locks as k
    where k.expires_at <= idle_since and k.token < clock and k.used = 0
      and (k.queue is null or not exists (select from jsonb_array_elements(k.queue) as t where (t->>'until')::float8 > clock))
    order by k.name
    for update skip locked
  ), emptied as materialized (
    select s.ctid as place from rowlock_slots as s where s.name in (select i.name from idle as i) for update skip locked
  ), gone as (
    delete from rowlock_locks as k using idle as i
    where k.name = i.name
      and not exists (select from rowlock_slots as s where s.name = k.name and s.ctid not in (select e.place from emptied as e))
    returning k.name
  ), gone_slots as (
    delete from rowlock_slots as s using gone as g where s.name = g.name
  )
  select count(*) from gone into purged;

  -- A process says it again several times a second, so one that has not for a minute is gone, or will say it anew.
  delete from rowlock_waits as w
  using (
    select o.process from rowlock_waits as o where o.said_at <= clock_timestamp() - interval '1 minute' for update skip locked
  ) as unsaid
  where w.process = unsaid.process;

  delete from rowlock_marks as m
  using (
    select o.kind, o.name, o.part from rowlock_marks as o
    where o.expires_at <= clock_timestamp()
       or o.kind = 'checkpoint' and o.written_at <= idle_since and not exists (select from rowlock_locks as k where k.name = o.name)
    for update skip locked
  ) as past
  where (m.kind, m.name, m.part) = (past.kind, past.name, past.part);
  return purged;
end
$function$;

-- How these tables are read and written, as a number: a version of the library that does not know it refuses them.
insert into rowlock_migrations (name) values ('protocol 1');
