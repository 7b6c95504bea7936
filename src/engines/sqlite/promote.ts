import { sql } from 'kysely'
import type { Statement } from '../../adapters/adapter.ts'
import * as lockRow from '../../protocol/lock-row.ts'
import { CONFIRM_MS, type Hold, type Promotion, type ReleaseResult, type Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import type { Context } from './context.ts'
import { clockToken, engine, type Fragments, free, now } from './fragments.ts'
import { byName, type Row, toGrants, toJson } from './rows.ts'
import { shareStatements } from './shares.ts'
import { ofKnown } from './steps.ts'

export function promoteStatements({ locks }: Fragments) {
  // Gives each lock of `source` to the first waiter whose time is not over; those before it are dead, and leave the queue.
  // Without one the lock is free, and the owner is whoever `source` says did not release it. Those who would share it are
  // left to lock-row.ts.
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
        where l.name = next.name and next.ticket ->> 'weight' is null
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
            and shares is null and permits is null
        ), ${handOver}`,
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
  steps,
  assertOpen,
}: Context<Tx>): Pick<Store<Tx>, 'promote' | 'release' | 'releaseIn'> {
  const statements = promoteStatements(fragments)
  const { releaseSharedIn } = shareStatements(fragments)

  /** Tells those who were handed a lock, and answers by name what was done. */
  async function handedOver(query: Statement, process: string): Promise<Map<unknown, Row>> {
    const { rows } = await runner.run(query)
    const processes = rows.flatMap(({ handed_to: to }) => (to === null ? [] : [to as string]))
    void file.hint(processes, process)
    return byName(rows)
  }

  return {
    async promote(names, process) {
      const promoted = await handedOver(statements.promote({ names: JSON.stringify(names) }), process)
      const rest = names.filter((name) => !promoted.has(name)).map((name) => ({ name }))
      const ifBusy = { reply: () => ({ outcome: 'locked', grants: [] }) as const, begun: promoted.size > 0 }
      const others = await steps.step(rest, promoteStep, { by: process, ifBusy })
      const answers = new Map(rest.map(({ name }, index) => [name, others[index]!]))
      return names.map((name) => {
        const grants = toGrants(promoted.get(name))
        return answers.get(name) ?? { outcome: grants.length > 0 ? 'handed over' : 'idle', grants }
      })
    },

    async release(holds, process) {
      const exclusive = holds.filter(({ slot }) => slot === undefined)
      const released =
        exclusive.length === 0
          ? new Map<unknown, Row>()
          : await handedOver(statements.release({ holds: toJson(exclusive) }), process)
      // Shared, or lost, or those who are next are to share it.
      const rest = holds.filter(({ name, slot }) => slot !== undefined || !released.has(name))
      const ifBusy = { reply: () => ({ ...LOST, outcome: 'locked' }) as const, begun: released.size > 0 }
      const others = await steps.step(rest, releaseStep, { by: process, ifBusy })
      const answers = new Map(rest.map((hold, index) => [hold, others[index]!]))
      return holds.map((hold) => {
        const grants = toGrants(released.get(hold.name))
        return answers.get(hold) ?? { outcome: 'released', handedOver: grants.length > 0, grants, promoteLater: false }
      })
    },

    async releaseIn(tx, hold) {
      const { slot } = hold
      const query = slot === undefined ? statements.releaseIn(hold) : releaseSharedIn({ ...hold, slot })
      const released = await runner.runIn(tx, query, ({ rows: [row] }) => row)
      if (adapter.synchronous) assertOpen(tx)
      return released === undefined ? 'lost' : { awaited: Number(released.awaited) === 1 }
    },
  }
}

const LOST = { outcome: 'lost', handedOver: false, grants: [], promoteLater: false } as const
const releaseStep = ofKnown<Hold, ReleaseResult>(LOST, lockRow.release)
const promoteStep = ofKnown<{ readonly name: string }, Promotion>({ outcome: 'idle', grants: [] }, (row, _, world) =>
  lockRow.promote(row, world),
)
