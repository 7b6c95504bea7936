import { type RawBuilder, sql } from 'kysely'
import { toBoolean } from '../../adapters/shape.ts'
import { wasHandedOver } from '../../protocol/ids.ts'
import {
  type Hold,
  isShared,
  type Release,
  type ReleaseResult,
  type SharedHold,
  type Store,
} from '../../protocol/store.ts'
import { transactionAborted } from '../failures.ts'
import { statement } from '../statement.ts'
import { type Context, compiled } from './context.ts'
import {
  durable,
  type Fragments,
  few,
  type HoldArrays,
  holds,
  lookedUp,
  notDurable,
  type SharedArrays,
  shared,
  sharedHolds,
  unlessAll,
} from './fragments.ts'
import { arraysOf, indicesOf, inOrder, type Row, sharedArraysOf, toGrants, unanswered } from './rows.ts'

export function releaseStatements({ locks, slots, named }: Fragments) {
  /** Whoever waits is handed the lock, which makes the commit wait for the disk after all. */
  const released = (asked: RawBuilder<unknown>, one: RawBuilder<unknown>) => sql`with released as materialized (
          select a.i, r.outcome, r.promote_later, r.grants
          from (${asked} order by name collate "C" ${few}) as a, lateral ${one} as r
        )
        select i::int, outcome, promote_later, grants::text,
               (select case when exists (select from released where grants is not null) then ${durable} else ${notDurable} end)
        from released`

  /** Nobody holds it any more. */
  const freed = sql`set owner = null, session = null, handed_to = null, expires_at = least(l.expires_at, clock_timestamp())`

  return {
    releaseOne: statement<Hold & { process: string }>(
      'postgres',
      (p) => sql`
        select outcome, promote_later, grants::text, case when grants is null then ${notDurable} end
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

    releaseMany: statement<HoldArrays & { process: string }>(
      'postgres',
      (p) => sql`
        ${released(
          sql`select * from ${holds(p)} as a(name, owner, token, i)`,
          sql`${named('release_1')}(a.name, a.owner, a.token, ${p.process}::text)`,
        )}`,
    ),

    releaseShared: statement<SharedArrays & { process: string }>(
      'postgres',
      (p) => sql`
        ${released(
          sql`select * from ${sharedHolds(p)} as a(name, slot, owner, token, i)`,
          sql`${named('unshare_1')}(a.name, a.slot, a.owner, a.token, ${p.process}::text)`,
        )}`,
    ),

    releaseIn: statement<Hold>(
      'postgres',
      (p) => sql`
        update ${locks} as l
        ${freed}
        where name = ${p.name}::text and owner = ${p.owner}::text and token = ${p.token}::bigint
        returning queue is not null as awaited`,
    ),

    // The weight stays until the next grant, which finds the slot locked before the commit.
    releaseSharedIn: statement<SharedHold>(
      'postgres',
      (p) => sql`
        update ${slots} as l
        ${freed}
        where ${shared(p)}
        returning (select k.queue is not null from ${locks} as k where k.name = l.name) as awaited`,
    ),

    adoptIn: statement<SharedHold>(
      'postgres',
      (p) => sql`
        with adopted as (
          update ${slots} as l
          ${freed}
          where ${shared(p)} and expires_at > clock_timestamp()
          returning true
        )
        select exists (select from adopted) as stands,
               current_setting('transaction_isolation') in ('repeatable read', 'serializable') as reads_snapshot`,
    ),
  }
}

export function release<Tx>(context: Context<Tx>): Pick<Store<Tx>, 'release' | 'releaseIn' | 'adoptIn'> {
  const { runner } = context
  const statements = compiled(context, releaseStatements)
  /** Released by a first statement of several, of which a later one failed: when the call is repeated, they are not lost. */
  const releasedBefore = new WeakSet<Hold>()

  async function releaseMany(asked: readonly Hold[], process: string): Promise<ReleaseResult[]> {
    const { rows } = await runner.keep(statements().releaseMany({ ...arraysOf(asked), process }))
    return inOrder(rows, asked.length).map((row, index) => toReleaseResult(asked[index]!.name, row!))
  }

  async function releaseShared(asked: readonly SharedHold[], process: string): Promise<ReleaseResult[]> {
    const { rows } = await runner.keep(statements().releaseShared({ ...sharedArraysOf(asked), process }))
    return inOrder(rows, asked.length).map((row, index) => toReleaseResult(asked[index]!.name, row!))
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
      if (asked.length === 1 && hold !== undefined && !isShared(hold) && !releasedBefore.has(hold)) {
        const { name, owner, token } = hold
        const [row] = (await runner.keep(statements().releaseOne({ name, owner, token, process }))).rows
        return [toReleaseResult(name, row!)]
      }
      const results = new Array<ReleaseResult | undefined>(asked.length).fill(undefined)
      for (const [index, hold] of asked.entries()) if (releasedBefore.has(hold)) results[index] = RELEASED
      const open = (shared: boolean) => unanswered(results).filter((index) => isShared(asked[index]!) === shared)
      try {
        const exclusive = open(false)
        for (const at of await releaseUnawaited(exclusive.map((index) => asked[index]!))) {
          results[exclusive[at]!] = RELEASED
        }
        for (const shared of [false, true]) {
          const others = open(shared)
          if (others.length === 0) continue
          const holds = others.map((index) => asked[index]!)
          const answers = await (shared ? releaseShared(holds as SharedHold[], process) : releaseMany(holds, process))
          for (const [at, index] of others.entries()) results[index] = answers[at]
        }
        return results as ReleaseResult[]
      } catch (error) {
        for (const [index, hold] of asked.entries()) {
          if (results[index]?.outcome === 'released') releasedBefore.add(hold)
        }
        throw error
      }
    },

    async releaseIn(tx, hold) {
      const query = isShared(hold) ? statements().releaseSharedIn(hold) : statements().releaseIn(hold)
      return runner.runIn(tx, query, ({ rows: [row] }) =>
        row === undefined ? 'lost' : { awaited: toBoolean(row.awaited) },
      )
    },

    adoptIn(tx, hold) {
      if (!isShared(hold)) return 'lost'
      return runner.runIn(tx, statements().adoptIn(hold), ({ rows: [row] }) => {
        if (toBoolean(row!.stands)) return 'stands'
        if (toBoolean(row!.reads_snapshot)) {
          throw transactionAborted(new Error('its snapshot is older than the shared hold that it was to adopt'))
        }
        return 'lost'
      })
    },
  }
}

const RELEASED: ReleaseResult = { outcome: 'released', handedOver: false, grants: [], promoteLater: false }

function toReleaseResult(name: string, row: Row): ReleaseResult {
  const grants = toGrants(name, row.grants)
  const outcome = row.outcome as ReleaseResult['outcome']
  return { outcome, handedOver: grants.length > 0, grants, promoteLater: toBoolean(row.promote_later) }
}

/** As a JSON object, in which the server finds a hold by its name. */
function byName(asked: readonly Hold[]): string {
  return JSON.stringify(Object.fromEntries(asked.map(({ name, owner, token }) => [name, `${owner} ${token}`])))
}
