import { type RawBuilder, sql } from 'kysely'
import { CONFIRM_MS, type Promotion, type Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import { type Context, inBatches } from './context.ts'
import { BATCH, batched, engine, type Fragments, now } from './fragments.ts'
import { bytes, type Row, text, toGrants, toRow } from './values.ts'

/**
 * Frees the locks of which `condition` is true, and gives each to the first ticket of its queue, if that is alive. insertId is
 * the new token then, the negative one if others wait but the first is dead, and 0 if nobody waits.
 */
export function handOverFor({ locks, askedLocks, firstIsAlive }: Fragments) {
  return <Row extends object>(condition: RawBuilder<unknown>, takeover: RawBuilder<unknown>) =>
    batched<Row>(sql`
        update (
          select l.name, l.token, greatest(l.token + 1, ${now}) as next_token, ${takeover} as takeover,
                 l.queue is not null as awaited,
                 case when ${firstIsAlive} then cast(json_extract(l.queue, '$[0]') as char(1000)) end as heir
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
  const { locks, view, firstIsAlive } = fragments
  const handOver = handOverFor(fragments)
  return {
    // Not after a hand-off that ran out before it was confirmed: the tickets of that process go first, by `prune`.
    promote: handOver<{ name: Buffer; deadSession: Buffer | null }>(
      sql`(l.expires_at <= ${now} or l.session = asked.deadSession) and ${firstIsAlive}
             and (l.owner is null or l.handed_to is null)`,
      sql`l.owner is not null`,
    ),

    queue: statement<{ name: Buffer }>(
      engine,
      (p) => sql`
        select ${view}, ${now} as clock, cast(l.queue as binary) as queue
        from ${locks} as l
        where l.name = ${p.name}`,
    ),

    // Only if nothing has changed since it was read.
    prune: statement<{ name: Buffer; token: bigint; seen: Buffer; living: Buffer | null }>(
      engine,
      (p) => sql`
        update (
          select name from ${locks} force index (primary)
          where name = ${p.name} and token = ${p.token} and cast(queue as binary) = ${p.seen}
          limit 1
          for update skip locked
        ) as same
        straight_join ${locks} as l force index (primary) on l.name = same.name
        set l.queue = convert(${p.living} using utf8mb4), l.handed_to = null`,
    ),
  }
}

export interface Promoter {
  readonly promote: Store<never>['promote']
  /** In two steps if the first one in the queue is dead: it is free in between, but nobody can barge. */
  behindTheDead(name: string): Promise<Promotion>
}

export function promoter({ runner, fragments, read }: Context<never>): Promoter {
  const statements = promoteStatements(fragments)

  async function promoteBatch(names: readonly { readonly name: string }[]): Promise<Promotion[]> {
    const result = await runner.keep(
      statements.promote(names.map(({ name }) => ({ name: bytes(name), deadSession: null }))),
    )
    const rows = await read(names)
    const promotions: Promotion[] = []
    for (const { name } of names) {
      const promotion = toPromotion(rows.get(name), Number(result.affectedRows) > 0)
      promotions.push(promotion.outcome === 'locked' ? await promoteBehindTheDead(name) : promotion)
    }
    return promotions
  }

  async function promoteBehindTheDead(name: string): Promise<Promotion> {
    const [record] = (await runner.keep(statements.queue({ name: bytes(name) }))).rows
    const row = record && toRow(record)
    const promotion = toPromotion(row, false)
    if (row === undefined || promotion.outcome !== 'locked') return promotion
    const seen = bytes(text(record!.queue))
    const tickets: QueuedTicket[] = JSON.parse(text(seen))
    // A hand-off that ran out unconfirmed: its process is gone or stands still, so none of its waiters is next.
    const gone = row.owner === null || row.handedTo === null ? undefined : bytes(row.handedTo).toString('hex')
    const living = tickets.filter(
      ({ until, process }) => until > Number(record!.clock) && process.toLowerCase() !== gone,
    )
    if (gone !== undefined || living.length < tickets.length) {
      const left = living.length === 0 ? null : bytes(JSON.stringify(living))
      const { affectedRows } = await runner.keep(
        statements.prune({ name: bytes(name), token: row.token, seen, living: left }),
      )
      if (Number(affectedRows) === 0) return promotion
    } else if (!row.sessionGone) {
      return promotion
    }
    const deadSession = row.sessionGone ? row.session : null
    const result = await runner.keep(statements.promote([{ name: bytes(name), deadSession }]))
    return toPromotion((await read([{ name }])).get(name), Number(result.affectedRows) > 0)
  }

  return {
    promote: (names) =>
      inBatches(
        names.map((name) => ({ name })),
        promoteBatch,
      ),
    behindTheDead: promoteBehindTheDead,
  }
}

/** What matters here of a ticket in the queue. */
interface QueuedTicket {
  readonly until: number
  /** In hex. */
  readonly process: string
}

/** Of a lock that was to be promoted. */
function toPromotion(row: Row | undefined, changed: boolean): Promotion {
  const grants = changed ? toGrants(row) : []
  if (grants.length > 0) return { outcome: 'handed over', grants }
  if (row?.held) return { outcome: 'held', grants: [] }
  return { outcome: row?.awaited ? 'locked' : 'idle', grants: [] }
}
