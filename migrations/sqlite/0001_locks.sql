-- One row per lock name, kept between holds, so that the token of a name can only rise.
create table rowlock_locks (
  name text not null primary key,                -- compared byte by byte
  owner text,                                    -- who holds it: the id of one acquire or hand-off; null when released
  token integer not null,                        -- fencing token, rises with every change of owner
  expires_at integer not null,                   -- held only before that millisecond since 1970 of this machine's clock;
                                                 -- without an owner: idle since then, but for those who share it
  holder text,                                   -- host:pid of the holder, for people
  handed_to text,                                -- the process that was handed the lock and has not renewed the lease yet
  takeover integer not null default 0,           -- 1 if the present holder took it from one that had not released it
  permits integer,                               -- of a semaphore; null: it is a lock
  shares text,                                   -- who shares it, or has permits, as JSON; null when nobody does. Others may be
                                                 -- in it that have run out
  queue text                                     -- who waits, first come first, as JSON; null when nobody does. Last, as it may be long
) strict, without rowid;

-- What processes say of their calls that wait while they hold something, so that a circle of them can be found. Each writes its
-- own row, for as long as it has such calls.
create table rowlock_waits (
  process text not null primary key,
  said_at integer not null,                      -- milliseconds since 1970 by this machine's clock
  waits text not null                            -- in words that processes alone understand
) strict, without rowid;

-- What was done, and what a holder left to others, beside the locks: results of jobs, checkpoints, times that were claimed.
create table rowlock_marks (
  kind text not null,
  name text not null,                            -- of a lock
  part text not null,                            -- tells those of one kind and name apart
  value text,                                    -- JSON; null: undefined
  token integer not null,                        -- of the hold under which it was written: none with a lower one replaces it
  written_at integer not null,                   -- milliseconds since 1970 by this machine's clock
  expires_at integer,                            -- as if it had never been from that moment on; null: never
  primary key (kind, name, part)
) strict, without rowid;

-- How these tables are read and written, as a number: a version of the library that does not know it refuses them.
insert into rowlock_migrations (name) values ('protocol 1');
