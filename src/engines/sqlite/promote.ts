import { sql } from 'kysely'
import { CONFIRM_MS, type Hold, type Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import type { Context } from './context.ts'
import { clockToken, engine, type Fragments, free, now } from './fragments.ts'
import { byName, type Row, toGrants, toJson } from './rows.ts'

export function promoteStatements({ locks }: Fragments) {
  // Gives each lock of `source` to the first waiter whose time is not over; those before it are dead, and leave the queue.
  // Without one the lock is free, and the owner is whoever `source` says did not release it.
  const handOver = sql`
        living as materialized (
          select name, owner, takeover, queue,
                 (select key from json_each(queue) where value ->> 'until' > ${now} limit 1) as first
          from source
        ), next as materialized (
          select name, owner, takeover,
                 queue -> first as ticket,
                 case when first = 0 then queue
                      when first > 0 then (select json_group_array(json(value)) from json_each(queue) where key >= first)
                      end as queue
          from living
        )
        update ${locks} as l
        set owner = coalesce((next.ticket ->> 'id') || printf('%016x', max(l.token + 1, ${clockToken})), next.owner),
            token = case when next.ticket is null then l.token else max(l.token + 1, ${clockToken}) end,
            expires_at = coalesce(${now} + min(next.ticket ->> 'ttl', ${sql.lit(CONFIRM_MS)}), min(l.expires_at, ${now})),
            holder = coalesce(next.ticket ->> 'holder', l.holder),
            handed_to = next.ticket ->> 'process',
            takeover = case when next.ticket is null then l.takeover else next.takeover end,
            queue = case when next.ticket ->> 'n' > 1 then json_set(next.queue, '$[0].n', (next.ticket ->> 'n') - 1)
                         else nullif(json_remove(next.queue, '$[0]'), '[]') end
        from next
        where l.name = next.name
        returning name, owner, cast(token as text) as token, takeover, handed_to, expires_at - ${now} as remaining`

  return {
    // A hand-off that ran out unconfirmed: its process is gone or stands still, so none of its waiters is next.
    promote: statement<{ names: string }>(
      engine,
      (p) => sql`
        with source as materialized (
          select name, owner, owner is not null as takeover,
                 case when handed_to is null then queue
                      else (select nullif(json_group_array(json(value)), '[]') from json_each(queue)
                            where value ->> 'process' <> handed_to) end as queue
          from ${locks} as l
          where name in (select value from json_each(${p.names})) and queue is not null and ${free}
        ), ${handOver}`,
    ),

    held: statement<{ names: string }>(
      engine,
      (p) => sql`
        select name
        from ${locks} as l
        where name in (select value from json_each(${p.names})) and not ${free}`,
    ),

    release: statement<{ holds: string }>(
      engine,
      (p) => sql`
        with source as materialized (
          select name, null as owner, 0 as takeover, queue
          from json_each(${p.holds}) as asked
          join ${locks} as l on l.name = asked.value ->> 'name'
          where l.owner = asked.value ->> 'owner' and l.token = cast(asked.value ->> 'token' as integer)
        ), ${handOver}`,
    ),

    releaseIn: statement<Hold>(
      engine,
      (p) => sql`
        update ${locks}
        set owner = null, handed_to = null, expires_at = min(expires_at, ${now})
        where name = ${p.name} and owner = ${p.owner} and token = cast(${p.token} as integer)
        returning queue is not null as awaited`,
    ),
  }
}

export function promote<Tx>({
  adapter,
  runner,
  fragments,
  file,
  assertOpen,
}: Context<Tx>): Pick<Store<Tx>, 'promote' | 'release' | 'releaseIn'> {
  const statements = promoteStatements(fragments)
  return {
    async promote(names, process) {
      const { rows } = await runner.run(statements.promote({ names: JSON.stringify(names) }))
      void file.hint(rows, process)
      const promoted = byName(rows)
      const held =
        promoted.size === names.length
          ? new Map<unknown, Row>()
          : byName((await runner.run(statements.held({ names: JSON.stringify(names) }))).rows)
      return names.map((name) => {
        const grants = toGrants(promoted.get(name))
        if (grants.length > 0) return { outcome: 'handed over', grants }
        return { outcome: held.has(name) && !promoted.has(name) ? 'held' : 'idle', grants }
      })
    },

    async release(holds, process) {
      const { rows } = await runner.run(statements.release({ holds: toJson(holds) }))
      void file.hint(rows, process)
      const released = byName(rows)
      return holds.map(({ name }) => {
        const grants = toGrants(released.get(name))
        const outcome = released.has(name) ? 'released' : 'lost'
        return { outcome, handedOver: grants.length > 0, grants, promoteLater: false }
      })
    },

    async releaseIn(tx, hold) {
      const released = await runner.runIn(tx, statements.releaseIn(hold), ({ rows: [row] }) => row)
      if (adapter.synchronous) assertOpen(tx)
      return released === undefined ? 'lost' : { awaited: Number(released.awaited) === 1 }
    },
  }
}
