import { type RawBuilder, sql } from 'kysely'
import * as lockRow from '../../protocol/lock-row.ts'
import { CONFIRM_MS, type Promotion, type Store } from '../../protocol/store.ts'
import { type Context, inBatches } from './context.ts'
import { BATCH, batched, type Fragments, now } from './fragments.ts'
import { bytes, type Row, toGrants } from './values.ts'

/**
 * Frees the locks of which `condition` is true, and gives each to the first ticket of its queue, if that is alive and waits
 * for all of it. insertId is the new token then, the negative one if others wait but that is not so, and 0 if nobody waits.
 */
export function handOverFor({ locks, askedLocks, firstIsAlive, firstIsExclusive }: Fragments) {
  return <Row extends object>(condition: RawBuilder<unknown>, takeover: RawBuilder<unknown>) =>
    batched<Row>(sql`
        update (
          select l.name, l.token, greatest(l.token + 1, ${now}) as next_token, ${takeover} as takeover,
                 l.queue is not null as awaited,
                 case when ${firstIsAlive} and ${firstIsExclusive}
                      then cast(json_extract(l.queue, '$[0]') as char(1000)) end as heir
          from ${askedLocks}
          where ${condition}
          limit ${sql.lit(BATCH)}
          for update skip locked
        ) as freed
        straight_join ${locks} as l force index (primary) on l.name = freed.name
        set l.owner = case when freed.heir is not null
                           then concat(json_value(freed.heir, '$.id'), lpad(lower(hex(freed.next_token)), 16, '0')) end,
            l.token = case when freed.heir is null then freed.token else freed.next_token end,
            l.expires_at = case when freed.heir is null then least(l.expires_at, ${now})
                else ${now} + 1000 * least(cast(json_value(freed.heir, '$.ttl') as signed), ${sql.lit(CONFIRM_MS)}) end
              + 0 * case when freed.heir is not null then last_insert_id(freed.next_token)
                         when freed.awaited = 1 then last_insert_id(-freed.token)
                         else 0 end,
            l.holder = unhex(json_value(freed.heir, '$.holder')),
            l.session = unhex(json_value(freed.heir, '$.session')),
            l.handed_to = unhex(json_value(freed.heir, '$.process')),
            l.takeover = freed.takeover,
            l.queue = case when freed.heir is null then l.queue
                           when json_value(freed.heir, '$.n') > 1
                             then json_set(l.queue, '$[0].n', cast(json_value(freed.heir, '$.n') - 1 as signed))
                           when json_length(l.queue) > 1 then json_remove(l.queue, '$[0]') end`)
}

export function promoteStatements(fragments: Fragments) {
  const { firstIsAlive, firstIsExclusive, unshared } = fragments
  const handOver = handOverFor(fragments)
  return {
    // Not after a hand-off that ran out before it was confirmed: the tickets of that process have to go first.
    promote: handOver<{ name: Buffer }>(
      sql`l.expires_at <= ${now} and ${firstIsAlive} and ${firstIsExclusive} and ${unshared}
             and (l.owner is null or l.handed_to is null)`,
      sql`l.owner is not null`,
    ),
  }
}

export interface Promoter {
  readonly promote: Store<never>['promote']
  /** Of whatever else is in the way than a holder: the dead, those who missed a hand-off; and to those who share. */
  step(name: string): Promise<Promotion>
}

const IDLE: Promotion = { outcome: 'idle', grants: [] }

export function promoter({ runner, fragments, read, steps }: Context<never>): Promoter {
  const statements = promoteStatements(fragments)
  const step = (name: string) => steps.step(name, IDLE, lockRow.promote)

  async function promoteBatch(names: readonly { readonly name: string }[]): Promise<Promotion[]> {
    const result = await runner.keep(statements.promote(names.map(({ name }) => ({ name: bytes(name) }))))
    const rows = await read(names)
    const promotions: Promotion[] = []
    for (const { name } of names) {
      const row = rows.get(name)
      const promotion = toPromotion(row, Number(result.affectedRows) > 0)
      promotions.push(row?.shared || promotion.outcome === 'locked' ? await step(name) : promotion)
    }
    return promotions
  }

  return {
    promote: (names) =>
      inBatches(
        names.map((name) => ({ name })),
        promoteBatch,
      ),
    step,
  }
}

/** Of a lock that was to be promoted. */
function toPromotion(row: Row | undefined, changed: boolean): Promotion {
  const grants = changed ? toGrants(row) : []
  if (grants.length > 0) return { outcome: 'handed over', grants }
  if (row?.held) return { outcome: 'held', grants: [] }
  return row?.awaited ? { outcome: 'locked', grants: [] } : IDLE
}
