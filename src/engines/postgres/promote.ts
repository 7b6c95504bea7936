import { sql } from 'kysely'
import type { Promotion, Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import { type Context, compiled } from './context.ts'
import { durable, type Fragments, few, free, unseen } from './fragments.ts'
import { array, inOrder, toGrants } from './rows.ts'

export function promoteStatements({ locks, rowOf, handOver }: Fragments) {
  return {
    // A hand-off that ran out unconfirmed: its process is gone or stands still, so none of its waiters is next.
    promote: statement<{ names: string; process: string }>(
      'postgres',
      (p) => sql`
        with source as materialized (
          select l.name, l.token, l.owner is not null as takeover,
                 case when l.owner is null or l.handed_to is null then l.queue
                      else nullif(jsonb_path_query_array(l.queue, ('$[*] ? (@.process != "' || l.handed_to || '")')::jsonpath), '[]')
                      end as queue
          from unnest(${unseen(p.names)}::text[]) as a(name), lateral (
            select * from ${locks} as l
            where l.name = a.name and l.queue is not null and ${free}
            for update skip locked
          ) as l
          ${few}
        ), changed as (${handOver(p.process)})
        select a.i::int, c.owner, c.token, c.takeover, c.process, c.remaining,
               case when c.owner is not null then 'handed over'
                    when c.name is not null or (l.queue is null and ${free}) then 'idle'
                    when ${free} then 'locked' else 'held' end as outcome,
               (select ${durable} where exists (select from changed where owner is not null))
        from unnest(${unseen(p.names)}::text[]) with ordinality as a(name, i)
        cross join ${rowOf(sql`a`)}
        left join changed as c on c.name = a.name`,
    ),
  }
}

export function promote(context: Context<never>): Store<never>['promote'] {
  const { runner } = context
  const statements = compiled(context, promoteStatements)
  return async (names, process) => {
    const { rows } = await runner.keep(statements().promote({ names: array(names), process }))
    return inOrder(rows, names.length).map((row, index): Promotion => {
      return { outcome: (row?.outcome ?? 'idle') as Promotion['outcome'], grants: toGrants(names[index]!, row) }
    })
  }
}
