import { type RawBuilder, sql } from 'kysely'
import type { EnqueueResult, Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import { type Context, compiled } from './context.ts'
import { clockToken, type Fragments, few, unseen, waiting } from './fragments.ts'
import { inOrder, numbered, toKind, toView } from './rows.ts'

export function enqueueStatements({ locks, named, view }: Fragments) {
  const suits = (lock: RawBuilder<unknown>) => sql`${named('suits_1')}(a.weight, a.permits, ${lock}.permits)`

  return {
    enqueue: statement<{ tickets: string; maxWaiters: number }>(
      'postgres',
      (p) => sql`
        with asked as materialized (
          select * from json_to_recordset(${unseen(p.tickets)}::json)
            as a(i int, name text, count int, ticket text, joins text, weight int, permits int, "ttlMs" float8, holder text, session text, process text,
                 listening boolean, "provenAlive" boolean, transaction boolean, "waitMs" float8)
          order by name collate "C"
          ${few}
        ), open as (
          select a.*, l.ctid as place
          from asked as a, lateral (
            select l.ctid from ${locks} as l where l.name = a.name for no key update skip locked
          ) as l
          ${few}
        ), queued as (
          update ${locks} as l
          set queue = case
            when l.queue->-1->>'id' = a.joins
              then jsonb_set(l.queue, '{-1}', l.queue->-1 || jsonb_build_object(
                     'n', (l.queue->-1->>'n')::int + a.count,
                     'until', greatest((l.queue->-1->>'until')::float8, ${clockToken} + a."waitMs" * 1000)))
            else coalesce(l.queue, '[]') || (jsonb_build_object(
                     'id', a.ticket, 'n', a.count, 'weight', a.weight, 'since', ${clockToken}, 'ttl', a."ttlMs", 'holder', a.holder, 'session', a.session,
                     'process', a.process, 'listening', a.listening, 'provenAlive', a."provenAlive", 'until', ${clockToken} + a."waitMs" * 1000)
                   || case when a.transaction then '{"transaction": true}' else '{}' end::jsonb) end
          from open as a
          where l.ctid = a.place and a.count + (${waiting}) <= ${p.maxWaiters}::int and ${suits(sql`l`)}
          returning l.name, l.queue->-1->>'id' as ticket, ${view}
        )
        select case when q.name is not null then 'queued'
                    when l.place is null then 'missing'
                    when not ${suits(sql`l`)} then 'unfit'
                    when l.place = (select place from open as o where o.i = a.i) then 'full' else 'locked' end as outcome,
               a.i, q.ticket, q.leases_wait, q.row_token, q.holders, q.promotable, q.tickets, l.permits
        from asked as a
        left join queued as q on q.name = a.name
        left join lateral (select l.ctid as place, l.permits from ${locks} as l where l.name = a.name limit 1) as l on true`,
    ),
  }
}

export function enqueue(context: Context<never>): Store<never>['enqueue'] {
  const { runner } = context
  const statements = compiled(context, enqueueStatements)
  return async (tickets, maxWaiters) => {
    const { rows } = await runner.keep(statements().enqueue({ tickets: numbered(tickets), maxWaiters }))
    return inOrder(rows, tickets.length).map((row, index): EnqueueResult => {
      const { outcome, permits } = row!
      if (outcome === 'unfit') return { outcome, kind: toKind(permits) }
      if (outcome !== 'queued') return { outcome: outcome as 'full' | 'locked' | 'missing' }
      return { outcome, ticket: row!.ticket as string, view: toView(tickets[index]!.name, row!) }
    })
  }
}
