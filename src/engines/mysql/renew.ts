import { sql } from 'kysely'
import type { Hold, Renewal, Store } from '../../protocol/store.ts'
import { type Context, inBatches } from './context.ts'
import { BATCH, batched, type Fragments, now } from './fragments.ts'
import { type AskedLease, isOurs, toAskedLease, tokenOf } from './values.ts'

export function renewStatements({ locks, askedLocks }: Fragments) {
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
  }
}

export function renew({ runner, fragments, read }: Context<never>): Store<never>['renew'] {
  const statements = renewStatements(fragments)

  async function renewBatch(holds: readonly (Hold & { readonly ttlMs: number })[]): Promise<Renewal[]> {
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
    return holds.map((hold): Renewal => {
      const { remainingMs } = rows.get(hold.name) ?? { remainingMs: 0 }
      if (!isOurs(hold, rows) || remainingMs <= 0) return { outcome: 'lost', remainingMs: 0 }
      // The expiry was moved if no more of the ttl is gone than these two statements took.
      return { outcome: remainingMs >= hold.ttlMs - elapsedMs ? 'renewed' : 'held', remainingMs }
    })
  }

  return (holds) => inBatches(holds, renewBatch)
}
