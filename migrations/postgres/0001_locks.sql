-- One row per lock name, kept between holds, so that the token of a name can only rise.
create table rowlock_locks (
  name text collate "C" primary key,             -- compared byte by byte
  owner text,                                    -- who holds it: the id of one acquire or hand-off; null when released
  token bigint not null,                         -- fencing token, rises with every change of owner
  expires_at timestamptz not null,               -- held only before that moment of this server's clock
  holder text,                                   -- host:pid of the holder, for people
  session bigint,                                -- advisory lock key of the holder's session, if the lease ends with that session
  queue jsonb,                                   -- who waits, first come first; null when nobody does
  handed_to text,                                -- the process that was handed the lock and has not renewed the lease yet
  takeover boolean not null default false        -- whether that hand-off took it from a holder that had not released it
) with (fillfactor = 50);                        -- room for HOT updates; hence also no index on expires_at
