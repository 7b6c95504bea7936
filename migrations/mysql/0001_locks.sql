-- One row per lock name, kept between holds, so that the token of a name can only rise.
-- Times are microseconds since 1970 in UTC: no session time zone can bend them. DDL commits by itself here, hence IF NOT
-- EXISTS: a migration that was cut off is simply run again.
create table if not exists rowlock_locks (
  name varbinary(255) not null primary key,      -- compared byte by byte
  owner varbinary(64),                           -- who holds it: the id of one acquire or hand-off; null when released
  token bigint not null,                         -- fencing token, rises with every change of owner
  expires_at bigint not null,                    -- held only before that moment of this server's clock
  holder varbinary(255),                         -- host:pid of the holder, for people
  session varbinary(64),                         -- GET_LOCK name of the holder's session, if the lease ends with that session
  queue json,                                    -- who waits, first come first; null when nobody does
  handed_to varbinary(64),                       -- the process that was handed the lock and has not renewed the lease yet,
                                                 -- or the transaction that took it last
  takeover tinyint not null default 0,           -- 1 if that hand-off took it from a holder that had not released it
  permits int,                                   -- of a semaphore; null: it is a lock
  used int not null default 0,                   -- sum of the weights of its slots; more than 0 keeps exclusive holds out
  checkpointed tinyint not null default 0        -- 1 if a holder has left a checkpoint, in rowlock_marks
) engine = InnoDB;

-- Shared holds, and those of permits. A slot is made when all of its lock are in use, is used again and again, and goes with
-- its lock. Whoever changes a weight has the lock's row locked, too; to end a hold, its slot will do.
create table if not exists rowlock_slots (
  name varbinary(255) not null,
  slot int not null,
  owner varbinary(64),                           -- as of a lock; null: it has ended
  token bigint not null default 0,
  weight int not null default 0,                 -- what it takes, until somebody takes that off `used`; 0: the slot is free
  expires_at bigint not null default 0,          -- counts before that moment, and while a transaction has the slot locked
  holder varbinary(255),
  session varbinary(64),
  handed_to varbinary(64),
  takeover tinyint not null default 0,
  primary key (name, slot),
  unique key (name, owner)                       -- an attempt that is sent twice at once is granted once
) engine = InnoDB;

-- While transactions take a lock one after the other, its row is always locked, and no lease can queue there. Whoever waits
-- for one then closes the gate here for a moment, and transactions let it in.
create table if not exists rowlock_gates (
  name varbinary(255) not null primary key,
  closed_until bigint not null,                  -- microseconds since 1970 in UTC
  closed_by varbinary(64) not null               -- who closed it last, and opens it again
) engine = InnoDB;

-- What processes say of their calls that wait while they hold something, so that a circle of them can be found. Each writes its
-- own row, for as long as it has such calls.
create table if not exists rowlock_waits (
  process varbinary(64) not null primary key,
  said_at bigint not null,                       -- microseconds since 1970 in UTC, by this server's clock
  waits longblob not null                        -- in words that processes alone understand
) engine = InnoDB;

-- What was done, and what a holder left to others, beside the locks: results of jobs, checkpoints, times that were claimed.
create table if not exists rowlock_marks (
  kind varbinary(16) not null,
  name varbinary(255) not null,                  -- of a lock
  part varbinary(64) not null,                   -- tells those of one kind and name apart
  value longblob,                                -- JSON; null: undefined
  token bigint not null,                         -- of the hold under which it was written: none with a lower one replaces it
  written_at bigint not null,                    -- microseconds since 1970 in UTC
  expires_at bigint,                             -- as if it had never been from that moment on; null: never
  primary key (kind, name, part)
) engine = InnoDB;

-- How these tables are read and written, as a number: a version of the library that does not know it refuses them.
insert ignore into rowlock_migrations (name) values ('protocol 1');
