import { sql } from 'kysely'
import { type Hold, isShared, type Renewal, type SharedHold, type Store } from '../../protocol/store.ts'
import { ofEachKind } from '../kinds.ts'
import { type Context, distinct, inBatches } from './context.ts'
import { BATCH, batched, type Fragments, now } from './fragments.ts'
import { type AskedLease, type AskedSlot, isOurs, isSameHold, toAskedLease, toAskedSlot, tokenOf } from './values.ts'

export function renewStatements({ locks, slots, askedLocks, askedSlots }: Fragments) {
  return {
    // A renewal never shortens: a late one is harmless. insertId is what is left, in microseconds.
    renew: batched<AskedLease>(sql`
        update (
          select asked.name, greatest(l.expires_at - ${now}, asked.ttl * 1000) as remaining
          from ${askedLocks}
          where l.owner = asked.owner and l.token = asked.token and l.expires_at > ${now}
          limit ${sql.lit(BATCH)}
          for update skip locked
        ) as mine
        straight_join ${locks} as l force index (primary) on l.name = mine.name
        set l.expires_at = ${now} + last_insert_id(mine.remaining), l.handed_to = null`),

    // The same of shared ones, which leaves the lock's row alone.
    renewSlots: batched<AskedSlot & { ttl: number }>(sql`
        update (
          select asked.name, asked.slot, greatest(s.expires_at - ${now}, asked.ttl * 1000) as remaining
          from ${askedSlots}
          where s.owner = asked.owner and s.token = asked.token and s.expires_at > ${now}
          limit ${sql.lit(BATCH)}
          for update skip locked
        ) as mine
        straight_join ${slots} as s force index (primary) on s.name = mine.name and s.slot = mine.slot
        set s.expires_at = ${now} + last_insert_id(mine.remaining), s.handed_to = null`),
  }
}

export function renew({ runner, fragments, read, steps }: Context<never>): Store<never>['renew'] {
  const statements = renewStatements(fragments)

  type Lease = Hold & { readonly ttlMs: number }

  async function renewBatch(holds: readonly Lease[]): Promise<Renewal[]> {
    const sentAt = performance.now()
    const result = await runner.keep(statements.renew(holds.map(toAskedLease)))
    if (holds.length === 1 && tokenOf(result) !== 0n) {
      return [{ outcome: 'renewed', remainingMs: Number(result.insertId) / 1000 }]
    }
    if (Number(result.affectedRows) === holds.length) {
      return holds.map(({ ttlMs }) => ({ outcome: 'renewed', remainingMs: ttlMs }))
    }
    const rows = await read(holds)
    const elapsedMs = performance.now() - sentAt
    return holds.map((hold) => judge(hold, isOurs(hold, rows) ? (rows.get(hold.name)?.remainingMs ?? 0) : 0, elapsedMs))
  }

  async function renewSlots(holds: readonly (Lease & SharedHold)[]): Promise<Renewal[]> {
    const renewed: Renewal[] = []
    for (let from = 0; from < holds.length; from += BATCH) {
      renewed.push(...(await renewSomeSlots(holds.slice(from, from + BATCH))))
    }
    return renewed
  }

  async function renewSomeSlots(holds: readonly (Lease & SharedHold)[]): Promise<Renewal[]> {
    const sentAt = performance.now()
    const asked = holds.map((hold) => ({ ...toAskedSlot(hold), ttl: hold.ttlMs }))
    const result = await runner.keep(statements.renewSlots(asked))
    if (holds.length === 1 && tokenOf(result) !== 0n) {
      return [{ outcome: 'renewed', remainingMs: Number(result.insertId) / 1000 }]
    }
    if (Number(result.affectedRows) === holds.length) {
      return holds.map(({ ttlMs }) => ({ outcome: 'renewed', remainingMs: ttlMs }))
    }
    const wholes = await steps.read(distinct(holds))
    const elapsedMs = performance.now() - sentAt
    return holds.map((hold) => {
      const whole = wholes.get(hold.name)
      const found = whole?.row.holders.find((each) => isSameHold(each, hold))
      return judge(hold, found === undefined ? 0 : found.expiresAt - whole!.world.now, elapsedMs)
    })
  }

  return (holds) => ofEachKind(holds, isShared, renewSlots, (exclusive) => inBatches(exclusive, renewBatch))
}

function judge({ ttlMs }: { readonly ttlMs: number }, remainingMs: number, elapsedMs: number): Renewal {
  if (remainingMs <= 0) return { outcome: 'lost', remainingMs: 0 }
  // The expiry was moved if no more of the ttl is gone than these two statements took.
  return { outcome: remainingMs >= ttlMs - elapsedMs ? 'renewed' : 'held', remainingMs }
}
