import { sql } from 'kysely'
import { toBoolean, toNumber } from '../../adapters/shape.ts'
import { wasHandedOver } from '../../protocol/ids.ts'
import type { Hold, Release, ReleaseResult, Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import { type Context, compiled } from './context.ts'
import { durable, type Fragments, few, type HoldArrays, holds, lookedUp, notDurable, unlessAll } from './fragments.ts'
import { arraysOf, indicesOf, inOrder, type Row, toGrants, unanswered } from './rows.ts'

export function releaseStatements({ locks, named, handOver }: Fragments) {
  /** Nobody holds it any more. */
  const freed = sql`set owner = null, session = null, handed_to = null, expires_at = least(l.expires_at, clock_timestamp())`

  return {
    releaseOne: statement<Hold & { process: string }>(
      'postgres',
      (p) => sql`
        select outcome, promote_later, owner, token, takeover, process, remaining
        from ${named('release_1')}(${p.name}::text, ${p.owner}::text, ${p.token}::bigint, ${p.process}::text)`,
    ),

    // For many for whom nobody waits: hands over to nobody, and lists nothing.
    releaseUnawaited: statement<{ holds: string; count: number }>(
      'postgres',
      (p) => sql`
        with asked as materialized (
          select ${p.holds}::text::jsonb as holds
        ), released as (
          update ${locks} as l
          ${freed}
          where l.ctid = any(array(
            select l.ctid from ${locks} as l
            where l.name = any(array(select jsonb_object_keys(holds) from asked)) and ${lookedUp}
              and (select holds from asked) ->> l.name = l.owner || ' ' || l.token
              and l.queue is null
            order by l.name collate "C"
            for no key update skip locked
          )) and ${lookedUp}
          returning l.name
        )
        select ${unlessAll(p.count)}, ${notDurable} from released having count(*) > 0`,
    ),

    // Whoever waits is handed the lock, which makes the commit wait for the disk after all.
    releaseMany: statement<HoldArrays & { process: string }>(
      'postgres',
      (p) => sql`
        with asked as materialized (
          select * from ${holds(p)} as a(name, owner, token, i)
        ), source as materialized (
          select l.* from asked as a, lateral (
            select l.name, l.token, l.queue, false as takeover
            from ${locks} as l
            where (l.name, l.owner, l.token) = (a.name, a.owner, a.token)
            for update skip locked
          ) as l
          ${few}
        ), changed as (${handOver(p.process)})
        select a.i::int, c.name is not null as released,
               case when c.name is null
                    then (select true from ${locks} as l where (l.name, l.owner, l.token) = (a.name, a.owner, a.token)) end as ours,
               c.owner, c.token, c.takeover, c.process, c.remaining,
               (select case when exists (select from changed where owner is not null) then ${durable}
                            else ${notDurable} end)
        from asked as a left join changed as c on c.name = a.name`,
    ),

    // While a guarded transaction is open, nobody can be given the lock; but its lease may end.
    releaseGuarded: statement<HoldArrays>(
      'postgres',
      (p) => sql`
        with asked as materialized (
          select * from ${holds(p)} as a(name, owner, token, i) order by name collate "C"
        ), mine as (
          select a.i, l.ctid as place
          from asked as a, lateral (
            select l.ctid from ${locks} as l
            where (l.name, l.owner, l.token) = (a.name, a.owner, a.token)
            for no key update skip locked
          ) as l
          ${few}
        )
        update ${locks} as l
        ${freed}
        from mine
        where l.ctid = mine.place
        returning mine.i::int, l.queue is not null as awaited`,
    ),

    releaseIn: statement<Hold>(
      'postgres',
      (p) => sql`
        update ${locks} as l
        ${freed}
        where name = ${p.name}::text and owner = ${p.owner}::text and token = ${p.token}::bigint
        returning queue is not null as awaited`,
    ),
  }
}

export function release<Tx>(context: Context<Tx>): Pick<Store<Tx>, 'release' | 'releaseIn'> {
  const { runner } = context
  const statements = compiled(context, releaseStatements)
  /** Released by a first statement of several, of which a later one failed: when the call is repeated, they are not lost. */
  const releasedBefore = new WeakSet<Hold>()

  async function releaseMany(asked: readonly Hold[], process: string): Promise<ReleaseResult[]> {
    const { rows } = await runner.keep(statements().releaseMany({ ...arraysOf(asked), process }))
    const results = inOrder(rows, asked.length).map((row, index): ReleaseResult => {
      if (toBoolean(row?.released ?? null)) return toReleased(asked[index]!.name, row!)
      return toBoolean(row?.ours ?? null) ? LOCKED : LOST
    })
    const locked = [...asked.keys()].filter((index) => results[index]!.outcome === 'locked')
    if (locked.length === 0) return results
    const guarded = await runner.keep(statements().releaseGuarded(arraysOf(locked.map((index) => asked[index]!))))
    for (const row of guarded.rows) {
      results[locked[toNumber(row.i) - 1]!] = { ...RELEASED, promoteLater: toBoolean(row.awaited) }
    }
    return results
  }

  async function releaseUnawaited(asked: readonly Release[]): Promise<number[]> {
    const some = [...asked.keys()].filter((index) => !asked[index]!.awaited && !wasHandedOver(asked[index]!))
    if (some.length === 0) return []
    const holds = some.map((index) => asked[index]!)
    const { rows } = await runner.keep(statements().releaseUnawaited({ holds: byName(holds), count: some.length }))
    return rows.flatMap(({ names }) => indicesOf(holds, names).map((at) => some[at]!))
  }

  return {
    async release(asked, process) {
      const [hold] = asked
      if (asked.length === 1 && hold !== undefined && !releasedBefore.has(hold)) {
        const { name, owner, token } = hold
        const [row] = (await runner.keep(statements().releaseOne({ name, owner, token, process }))).rows
        return [toReleaseResult(name, row!)]
      }
      const results = new Array<ReleaseResult | undefined>(asked.length).fill(undefined)
      for (const [index, hold] of asked.entries()) if (releasedBefore.has(hold)) results[index] = RELEASED
      const open = unanswered(results)
      for (const at of await releaseUnawaited(open.map((index) => asked[index]!))) results[open[at]!] = RELEASED
      const others = unanswered(results)
      if (others.length === 0) return results as ReleaseResult[]
      try {
        const answers = await releaseMany(
          others.map((index) => asked[index]!),
          process,
        )
        for (const [at, index] of others.entries()) results[index] = answers[at]
        return results as ReleaseResult[]
      } catch (error) {
        for (const [index, hold] of asked.entries()) if (results[index] !== undefined) releasedBefore.add(hold)
        throw error
      }
    },

    async releaseIn(tx, hold) {
      return runner.runIn(tx, statements().releaseIn(hold), ({ rows: [row] }) =>
        row === undefined ? 'lost' : { awaited: toBoolean(row.awaited) },
      )
    },
  }
}

const RELEASED: ReleaseResult = { outcome: 'released', handedOver: false, grants: [], promoteLater: false }
const LOST: ReleaseResult = { ...RELEASED, outcome: 'lost' }
const LOCKED: ReleaseResult = { ...RELEASED, outcome: 'locked' }

function toReleased(name: string, row: Row): ReleaseResult {
  const grants = toGrants(name, row)
  return { ...RELEASED, handedOver: grants.length > 0, grants }
}

function toReleaseResult(name: string, row: Row): ReleaseResult {
  if (row.outcome !== 'released') return row.outcome === 'locked' ? LOCKED : LOST
  return { ...toReleased(name, row), promoteLater: toBoolean(row.promote_later) }
}

/** As a JSON object, in which the server finds a hold by its name. */
function byName(asked: readonly Hold[]): string {
  return JSON.stringify(Object.fromEntries(asked.map(({ name, owner, token }) => [name, `${owner} ${token}`])))
}
