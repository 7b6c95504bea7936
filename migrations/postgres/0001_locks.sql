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
  takeover boolean not null default false        -- whether that hand-off took it from a holder that had not released it
) with (fillfactor = 50);                        -- room for HOT updates; hence also no index on expires_at

-- While transactions take a lock one after the other, its row is always locked, and no lease can queue there. Whoever waits
-- for one then closes the gate here for a moment, and transactions let it in.
create table rowlock_gates (
  name text collate "C" primary key,
  closed_until timestamptz not null,
  closed_by text not null                        -- who closed it last, and opens it again
);

-- Functions keep the search_path of the migration: a caller with another one means these tables all the same.

-- Takes a lock in the caller's transaction, in one message. What has to be undone is undone in a subtransaction of the
-- function's own, so that nothing else that happens on the connection is undone with it.
--
-- Transactions wait for each other at an advisory lock, in its order, where the engine finds deadlocks. Whoever has it waits
-- for the row only while a guard or a statement of a lease has that locked. Who is refused keeps neither: the holder of the
-- lock has to renew.
--
-- outcome: 'granted', 'held' (by a lease), 'queued' (leases wait that come first) or 'locked' (the wait is over).
create function rowlock_within_1(
  lock_name text, new_owner text, ttl_ms float8, new_holder text, wait_ms float8,
  out outcome text, out token text, out owner text, out holder text, out idle_limit_ms float8
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
      select l.handed_to = this_transaction, l.owner = new_owner from rowlock_locks as l
      where l.name = lock_name
        and (l.handed_to = this_transaction
             or l.owner = new_owner
             or (l.owner is null or l.expires_at <= clock_timestamp()
                 or case when l.session is not null then pg_try_advisory_xact_lock_shared(l.session) end)
                and (l.queue is null or not l.queue @@ 'exists($[*] ? (!exists(@.transaction)))')
                and not exists (select from rowlock_gates as g where g.name = lock_name and g.closed_until > clock_timestamp()))
      for update
      into is_ours, was_handed;
      if found then
        update rowlock_locks as l
        set owner = case when ttl_ms is not null then case when is_ours then coalesce(l.owner, new_owner) else new_owner end
                         when is_ours then l.owner end,
            token = case when is_ours or was_handed then l.token
                         else greatest(l.token + 1, (extract(epoch from clock_timestamp()) * 1000000)::bigint) end,
            expires_at = case when is_ours and ttl_ms is null then l.expires_at
                              else clock_timestamp() + coalesce(ttl_ms, 0) * interval '1 ms' end,
            holder = new_holder, session = null, handed_to = this_transaction, takeover = false
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
      idle_limit_ms := extract(epoch from current_setting('idle_in_transaction_session_timeout')::interval) * 1000;
      select case when s.is_held then 'held' else 'queued' end, case when s.is_held then l.holder end
      from rowlock_locks as l, lateral (
        select l.owner is not null and l.expires_at > clock_timestamp()
               and not case when l.session is null then false else pg_try_advisory_xact_lock_shared(l.session) end as is_held
      ) as s
      where l.name = lock_name into outcome, holder;
    when lock_not_available then
      outcome := 'locked';
  end;
end
$function$;

-- Takes the first of several locks in the caller's transaction: in the order of the array, up to one that cannot be had at
-- once. Waits for nothing. What is waited for goes through rowlock_within_1, one by one; this takes no advisory lock that
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
               (l.owner is null or l.expires_at <= clock_timestamp()
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
          where l.name = lock_names[i]
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
-- Either a token, or who holds the lock; or `queued`: nobody does, but others wait for it; or `ours`: this owner has it
-- already, but the row is locked at this moment.
create function rowlock_acquire_1(
  lock_name text, new_owner text, ttl_ms float8, new_holder text, new_session bigint,
  out token text, out takeover boolean, out holder text, out queued boolean, out ours boolean
) language plpgsql set search_path from current as $function$
declare
  place tid;
  ignored text;
begin
  -- WHO GETS THE LOCK: whoever finds it free, with nobody waiting, and an attempt that is repeated finds its own. Free is what
  -- was released, what has run out, and what was held by a session that is gone: its advisory lock can be had.
  select l.ctid from rowlock_locks as l
  where l.name = lock_name
    and (l.owner = new_owner
         or l.queue is null
            and (l.owner is null or l.expires_at <= clock_timestamp()
                 or case when l.session is null
                           or l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
                         else pg_try_advisory_xact_lock_shared(l.session) end))
  for update skip locked
  into place;
  if found then
    update rowlock_locks as l
    set owner = new_owner,
        token = case when l.owner = new_owner then l.token
                     else greatest(l.token + 1, (extract(epoch from clock_timestamp()) * 1000000)::bigint) end,
        expires_at = clock_timestamp() + ttl_ms * interval '1 ms',
        holder = new_holder,
        session = new_session,
        handed_to = null,
        takeover = case when l.owner = new_owner then l.takeover else l.owner is not null end
    where l.ctid = place
    returning l.token, l.takeover into token, takeover;
  else
    select case when not s.is_free then l.holder end, l.queue is not null and s.is_free, l.owner is not distinct from new_owner
    from rowlock_locks as l, lateral (
      select l.owner is null or l.expires_at <= clock_timestamp()
             or case when l.session is null
                       or l.session::text = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then false
                     else pg_try_advisory_xact_lock_shared(l.session) end as is_free
    ) as s
    where l.name = lock_name
    into holder, queued, ours;
    -- Two inserts of one new name would wait for each other's transactions.
    if not found and pg_try_advisory_xact_lock(hashtextextended('rowlock_locks'::regclass::oid || ' ' || lock_name, 7239615)) then
      insert into rowlock_locks as l (name, owner, token, expires_at, holder, session)
      values (lock_name, new_owner, (extract(epoch from clock_timestamp()) * 1000000)::bigint,
              clock_timestamp() + ttl_ms * interval '1 ms', new_holder, new_session)
      on conflict do nothing
      returning l.token, l.takeover into token, takeover;
    end if;
  end if;
  if token is not null and current_setting('synchronous_commit') = 'off' then
    -- Who is told of a grant counts on it.
    ignored := set_config('synchronous_commit', 'on', true);
  end if;
end
$function$;

-- Releases a lease, and hands the lock over to the first living waiter of its queue. Waits for nothing.
--
-- outcome: 'released', 'lost', or 'locked' (ours, but the row is locked at this moment). promote_later: others wait, but a
-- guarded transaction is open, so that nobody can be given the lock. The rest tells to whom it was handed over.
create function rowlock_release_1(
  lock_name text, old_owner text, old_token bigint, own_process text,
  out outcome text, out promote_later boolean,
  out owner text, out token text, out takeover boolean, out process text, out remaining float8
) language plpgsql set search_path from current as $function$
declare
  place tid;
  waiting jsonb;
  next_ticket jsonb;
  next_position bigint;
  ignored text;
begin
  outcome := 'released';
  select l.ctid, l.queue from rowlock_locks as l
  where l.name = lock_name and l.owner = old_owner and l.token = old_token
  for update skip locked
  into place, waiting;
  if not found then
    -- A guard lets a weaker lock pass.
    select l.ctid from rowlock_locks as l
    where l.name = lock_name and l.owner = old_owner and l.token = old_token
    for no key update skip locked
    into place;
    promote_later := place is not null;
  end if;

  if waiting is not null then
    -- Those whose time is over are dead, and those whose process has no session any more: its advisory lock can be had.
    select t.ticket, t.position from jsonb_array_elements(waiting) with ordinality as t(ticket, position)
    where (t.ticket->>'until')::float8 > extract(epoch from clock_timestamp()) * 1000000
      and case when not (t.ticket->>'provenAlive')::boolean
                 or t.ticket->>'process' = any(string_to_array(current_setting('rowlock.own_locks', true), ',')) then true
               else not pg_try_advisory_xact_lock_shared((t.ticket->>'process')::bigint) end
    limit 1
    into next_ticket, next_position;
  end if;

  if next_ticket is not null then
    if (next_ticket->>'n')::int > 1 then
      waiting := jsonb_set(jsonb_path_query_array(waiting, ('$[' || next_position - 1 || ' to last]')::jsonpath),
                           '{0,n}', to_jsonb((next_ticket->>'n')::int - 1));
    else
      waiting := nullif(jsonb_path_query_array(waiting, ('$[' || next_position || ' to last]')::jsonpath), '[]');
    end if;
    update rowlock_locks as l
    set (owner, token) = (select (next_ticket->>'id') || lpad(to_hex(next_token), 16, '0'), next_token
                          from greatest(l.token + 1, (extract(epoch from clock_timestamp()) * 1000000)::bigint) as next_token),
        expires_at = clock_timestamp() + least((next_ticket->>'ttl')::float8, 1000) * interval '1 ms',
        holder = next_ticket->>'holder',
        session = (next_ticket->>'session')::bigint,
        handed_to = next_ticket->>'process',
        takeover = false,
        queue = waiting
    where l.ctid = place
    returning l.owner, l.token, false, l.handed_to, extract(epoch from l.expires_at - clock_timestamp()) * 1000
    into owner, token, takeover, process, remaining;
    if (next_ticket->>'listening')::boolean and process <> own_process then
      perform pg_notify('rowlock_' || process, json_build_object(
        'name', lock_name, 'owner', owner, 'token', token, 'takeover', false,
        'expiresAt', extract(epoch from clock_timestamp()) * 1000 + remaining)::text);
    end if;
    if current_setting('synchronous_commit') = 'off' then
      ignored := set_config('synchronous_commit', 'on', true);
    end if;
  elsif place is not null then
    update rowlock_locks as l
    set owner = null, session = null, handed_to = null, takeover = false,
        expires_at = least(l.expires_at, clock_timestamp()),
        queue = case when promote_later then l.queue end
    where l.ctid = place
    returning promote_later and l.queue is not null into promote_later;
    if not found then
      place := null;
    else
      -- What a crash undoes of a release costs the next holder one ttl, so its commit need not wait for the disk.
      ignored := set_config('synchronous_commit', 'off', true);
    end if;
  end if;

  if place is null then
    promote_later := false;
    outcome := case when exists (
      select from rowlock_locks as l where l.name = lock_name and l.owner = old_owner and l.token = old_token
    ) then 'locked' else 'lost' end;
  end if;
end
$function$;

-- How these tables are read and written, as a number: a version of the library that does not know it refuses them.
insert into rowlock_migrations (name) values ('protocol 1');
