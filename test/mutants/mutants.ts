import type { Mutant } from './mutant.ts'

type Weakening = Pick<Mutant, 'name' | 'find' | 'replace' | 'tests'>

const on = (engine: Mutant['engine'], file: string, mutants: readonly Weakening[]): Mutant[] =>
  mutants.map((mutant) => ({ ...mutant, engine, file }))

const sqlite = on('better-sqlite3', 'src/engines/sqlite/sqlite.ts', [
  {
    name: 'SQLite: acquire does not look at the expiry',
    find: `where \${again} or (l.queue is null and \${free})`,
    replace: `where \${again} or l.queue is null`,
    tests: ['contract/acquire.contract.test.ts'],
  },
  {
    name: 'SQLite: acquire does not look at the queue',
    find: `where \${again} or (l.queue is null and \${free})`,
    replace: `where \${again} or \${free}`,
    tests: ['store/queue.test.ts'],
  },
  {
    name: 'SQLite: acquire does not raise the token',
    find: `token = case when \${again} then l.token else max(l.token + 1, excluded.token) end`,
    replace: 'token = l.token',
    tests: ['contract/tokens.contract.test.ts'],
  },
  {
    name: 'SQLite: the token of a new holder is the clock, even if that was set back',
    find: `max(l.token + 1, excluded.token) end`,
    replace: 'excluded.token end',
    tests: ['contract/tokens.contract.test.ts', 'race/clocks.test.ts'],
  },
  {
    name: 'SQLite: an attempt is not recognised when it is repeated',
    find: `take(p.attempts, sql\`l.owner = excluded.owner\`)`,
    replace: `take(p.attempts, sql\`false\`)`,
    tests: ['contract/acquire.contract.test.ts', 'store/queue.test.ts'],
  },
  {
    name: 'SQLite: release asks neither for owner nor token',
    find: `where l.owner = asked.value ->> 'owner' and l.token = cast(asked.value ->> 'token' as integer)
        ), \${handOver}`,
    replace: `), \${handOver}`,
    tests: ['contract/lease.contract.test.ts'],
  },
  {
    name: 'SQLite: release in a transaction asks neither for owner nor token',
    find: `where name = \${p.name} and owner = \${p.owner} and token = cast(\${p.token} as integer)
        returning queue`,
    replace: `where name = \${p.name}
        returning queue`,
    tests: ['contract/guard.contract.test.ts', 'within/within.test.ts'],
  },
  {
    name: 'SQLite: renew revives what has run out',
    find: `and l.expires_at > \${now}
        returning name, expires_at`,
    replace: 'returning name, expires_at',
    tests: ['contract/lease.contract.test.ts', 'contract/heartbeat.contract.test.ts'],
  },
  {
    name: 'SQLite: renew shortens',
    find: `set expires_at = max(l.expires_at, \${now} + asked.value ->> 'ttlMs')`,
    replace: `set expires_at = \${now} + asked.value ->> 'ttlMs'`,
    tests: ['contract/lease.contract.test.ts'],
  },
  {
    name: 'SQLite: renew does not claim a hand-off',
    find: `asked.value ->> 'ttlMs'), handed_to = null`,
    replace: `asked.value ->> 'ttlMs')`,
    tests: ['store/queue.test.ts'],
  },
  {
    name: 'SQLite: the guard asks neither for owner nor token',
    find: `set expires_at = l.expires_at
        from json_each(\${p.holds}) as asked
        where l.name = asked.value ->> 'name'
          and l.owner = asked.value ->> 'owner'
          and l.token = cast(asked.value ->> 'token' as integer)`,
    replace: `set expires_at = l.expires_at
        from json_each(\${p.holds}) as asked
        where l.name = asked.value ->> 'name'`,
    tests: ['contract/guard.contract.test.ts'],
  },
  {
    name: 'SQLite: a hand-off goes to who came last',
    find: `where value ->> 'until' > \${now} limit 1`,
    replace: `where value ->> 'until' > \${now} order by key desc limit 1`,
    tests: ['store/queue.test.ts'],
  },
  {
    name: 'SQLite: dead waiters are not skipped',
    find: `where value ->> 'until' > \${now} limit 1`,
    replace: 'limit 1',
    tests: ['store/queue.test.ts'],
  },
  {
    name: 'SQLite: a hand-off lasts for the whole ttl before it is claimed',
    find: `min(heir.entry ->> 'ttl', \${sql.lit(CLAIM_MS)})`,
    replace: `(heir.entry ->> 'ttl')`,
    tests: ['store/queue.test.ts'],
  },
  {
    name: 'SQLite: who did not claim a hand-off stays in the queue',
    find: `case when handed_to is null then queue`,
    replace: `case when true then queue`,
    tests: ['store/queue.test.ts'],
  },
  {
    name: 'SQLite: settle hands over what is held',
    find: `and queue is not null and \${free}
        ), \${handOver}`,
    replace: `and queue is not null
        ), \${handOver}`,
    tests: ['store/queue.test.ts'],
  },
  {
    name: 'SQLite: a queue has no bounds',
    find: `where l.name = asked.value ->> 'name' and \${waiters} + (asked.value ->> 'count') <= \${p.maxWaiters}`,
    replace: `where l.name = asked.value ->> 'name' and \${p.maxWaiters} is not null`,
    tests: ['store/queue.test.ts'],
  },
  {
    name: 'SQLite: a caller who leaves stays in the queue',
    find: `where waiting.value ->> 'id' <> asked.value ->> 'entry' or waiting.value ->> 'n' > asked.value ->> 'count')`,
    replace: ')',
    tests: ['store/queue.test.ts'],
  },
  {
    name: 'SQLite: force-release does not raise the token',
    find: `handed_to = null, token = max(token + 1, \${clockToken}), expires_at = \${now}`,
    replace: `handed_to = null, expires_at = \${now}`,
    tests: ['contract/administration.contract.test.ts', 'contract/tokens.contract.test.ts'],
  },
  {
    name: 'SQLite: purge deletes what is waited for',
    find: `and not exists (select 1 from json_each(queue) where value ->> 'until' > \${now})
`,
    replace: '\n',
    tests: ['store/queue.test.ts', 'contract/administration.contract.test.ts'],
  },
])

const memory = on('memory', 'src/engines/memory/memory.ts', [
  {
    name: 'memory: acquire does not look at the guards',
    find: '(isHeld(row) || lockedByOthers || row.queue.length > 0)',
    replace: '(isHeld(row) || row.queue.length > 0)',
    tests: ['within/within.test.ts'],
  },
  {
    name: 'memory: a release hands over under an open guard',
    find: 'const unsettled = row.guards.size > 0 && row.queue.length > 0',
    replace: 'const unsettled = false',
    tests: ['contract/guard.contract.test.ts', 'store/queue.test.ts', 'model/machine.test.ts'],
  },
])

const pg = 'pg on PostgreSQL 18'
const postgres = on(pg, 'src/engines/postgres/postgres.ts', [
  {
    name: 'PostgreSQL: nothing looks at the expiry',
    find: `(l.owner is null or l.expires_at <= clock_timestamp() or \${sessionGone})`,
    replace: `(l.owner is null or l.expires_at is not null or \${sessionGone})`,
    tests: ['contract/acquire.contract.test.ts'],
  },
  {
    name: 'PostgreSQL: a session that is gone holds on',
    find: `(l.owner is null or l.expires_at <= clock_timestamp() or \${sessionGone})`,
    replace: `(l.owner is null or l.expires_at <= clock_timestamp() or (\${sessionGone} and false))`,
    tests: ['race/session.test.ts'],
  },
  {
    name: 'PostgreSQL: acquire locks the row too weakly to stop at a guard',
    find: `and \${free} or l.owner = \${owner})
            for update skip locked`,
    replace: `and \${free} or l.owner = \${owner})
            for no key update skip locked`,
    tests: ['race/guard.test.ts', 'contract/guard.contract.test.ts'],
  },
  {
    name: 'PostgreSQL: acquire waits for who has the row locked',
    find: `and \${free} or l.owner = \${owner})
            for update skip locked`,
    replace: `and \${free} or l.owner = \${owner})
            for update`,
    tests: ['race/quiet.test.ts', 'race/guard.test.ts', 'store/queue.test.ts', 'race/small-pool.test.ts'],
  },
  {
    name: 'PostgreSQL: acquire does not look at the queue',
    find: `and (l.queue is null and \${free} or l.owner = \${owner})`,
    replace: `and (\${free} or l.owner = \${owner})`,
    tests: ['store/queue.test.ts'],
  },
  {
    name: 'PostgreSQL: what was done for some of many was done for all',
    find: `case when count(*) < \${count}::int then`,
    replace: `case when count(*) < least(\${count}::int, 0) then`,
    tests: ['store/queue.test.ts', 'race/store-batches.test.ts'],
  },
  {
    name: 'PostgreSQL: a release of many asks for some name and some hold',
    find: `and (select holds from asked) ->> l.name = l.owner || ' ' || l.token`,
    replace: `and l.owner || ' ' || l.token in (select value from asked, jsonb_each_text(holds))`,
    tests: ['store/queue.test.ts'],
  },
  {
    name: 'PostgreSQL: a release of many waits for who has a row locked',
    find: `and l.queue is null
            order by l.name collate "C"
            for no key update skip locked
          )) and`,
    replace: `and l.queue is null
            order by l.name collate "C"
            for no key update
          )) and`,
    tests: ['store/queue.test.ts', 'race/quiet.test.ts', 'race/batches.test.ts'],
  },
  {
    name: 'PostgreSQL: a release of many passes over those who wait',
    find: `and l.queue is null
            order by l.name collate "C"
            for no key update skip locked
          )) and`,
    replace: `order by l.name collate "C"
            for no key update skip locked
          )) and`,
    tests: ['store/queue.test.ts', 'race/queue.test.ts'],
  },
  {
    name: 'PostgreSQL: an attempt that is repeated does not find its own',
    find: `and (l.queue is null and \${free} or l.owner = \${owner})`,
    replace: `and (l.queue is null and \${free})`,
    tests: ['store/queue.test.ts', 'race/lost-reply.test.ts'],
  },
  {
    name: 'PostgreSQL: the planner may read the whole table',
    find: 'const lookedUp = sql`case when l.token < 0 then (select count(*) from generate_series(0, l.token)) > 0 else true end`',
    replace: 'const lookedUp = sql`true`',
    tests: ['store/plans.test.ts'],
  },
  {
    name: 'PostgreSQL: two transactions may create one name',
    find: `else pg_try_advisory_xact_lock(\${advisoryKey(table, sql\`m.name\`)}) end`,
    replace: 'else true end',
    tests: ['within/within.test.ts'],
  },
  {
    name: 'PostgreSQL: a guard locks nothing',
    find: `order by l.name
        for key share of l`,
    replace: 'order by l.name',
    tests: ['store/queue.test.ts'],
  },
  {
    name: 'PostgreSQL: a guard that is folded into a statement locks nothing',
    find: `and token = \${p.token}::bigint
        for key share\``,
    replace: `and token = \${p.token}::bigint\``,
    tests: ['race/guard.test.ts', 'contract/guard.contract.test.ts'],
  },
  {
    name: 'PostgreSQL: a release hands over under an open guard',
    find: `and l.token = \${p.token}::bigint
          for update skip locked`,
    replace: `and l.token = \${p.token}::bigint
          for no key update skip locked`,
    tests: ['race/guard.test.ts', 'store/queue.test.ts', 'model/machine.test.ts'],
  },
  {
    name: 'PostgreSQL: a release of many hands over under an open guard',
    find: `= (a.name, a.owner, a.token)
            for update skip locked`,
    replace: `= (a.name, a.owner, a.token)
            for no key update skip locked`,
    tests: ['race/guard.test.ts', 'store/queue.test.ts', 'model/machine.test.ts'],
  },
  {
    name: 'PostgreSQL: waiters whose process is gone are not skipped',
    find: `then not \${sessionEnded(sql\`(entry->>'process')::bigint\`)} else true end`,
    replace: 'then true else true end',
    tests: ['race/queue.test.ts', 'store/queue.test.ts'],
  },
])

const pglite = on('pglite', 'src/engines/postgres/postgres.ts', [
  {
    name: 'PGlite: acquire does not raise the token',
    find: `token = case when l.owner = \${a.owner} then l.token else greatest(l.token + 1, (select \${clockToken})) end`,
    replace: 'token = l.token',
    tests: ['contract/tokens.contract.test.ts'],
  },
])

const mysql = on('mysql2 on MySQL', 'src/engines/mysql/mysql-statements.ts', [
  {
    name: 'MySQL: acquire does not look at the expiry',
    find: `or l.queue is null and (l.expires_at <= \${now} or l.session = asked.deadSession)`,
    replace: 'or l.queue is null and (l.expires_at is not null or l.session = asked.deadSession)',
    tests: ['contract/acquire.contract.test.ts'],
  },
  {
    name: 'MySQL: without LIMIT the derived table is merged, and SKIP LOCKED with it',
    find: `(l.expires_at <= \${now} or l.session = asked.deadSession)
          limit \${sql.lit(BATCH)}
          for update skip locked
        ) as free`,
    replace: `(l.expires_at <= \${now} or l.session = asked.deadSession)
          for update skip locked
        ) as free`,
    tests: ['store/queue.test.ts'],
  },
  {
    name: 'MySQL: the guard asks neither for owner nor token',
    find: `l.handed_to = null
        where l.owner = asked.owner and l.token = asked.token and l.expires_at > \${now}`,
    replace: `l.handed_to = null
        where l.expires_at > \${now}`,
    tests: ['contract/guard.contract.test.ts'],
  },
  {
    name: 'MySQL: a hand-off does not raise the token',
    find: 'l.token = case when freed.heir is null then freed.token else freed.next_token end',
    replace: 'l.token = freed.token',
    tests: ['contract/waiting.contract.test.ts', 'store/queue.test.ts'],
  },
  {
    name: 'MySQL: a renewal shortens',
    find: `greatest(l.expires_at - \${now}, asked.ttl * 1000) as remaining`,
    replace: 'asked.ttl * 1000 as remaining',
    tests: ['contract/lease.contract.test.ts'],
  },
  {
    name: 'MySQL: settle frees a lock whose first waiter is dead',
    find: `or l.session = asked.deadSession) and \${firstLives}`,
    replace: 'or l.session = asked.deadSession) and l.queue is not null',
    tests: ['store/queue.test.ts'],
  },
])

export const MUTANTS: readonly Mutant[] = [...sqlite, ...memory, ...postgres, ...pglite, ...mysql]

/** A few that are killed quickly, and without a server, for every run of the tests. */
export const QUICK: readonly Mutant[] = MUTANTS.filter(({ name }) =>
  [
    'SQLite: acquire does not look at the expiry',
    'SQLite: acquire does not raise the token',
    'SQLite: the guard asks neither for owner nor token',
    'memory: acquire does not look at the guards',
    'PGlite: acquire does not raise the token',
  ].includes(name),
)
