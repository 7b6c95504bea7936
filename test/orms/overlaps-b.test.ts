import { overlapsSuite } from '../within/overlaps.ts'
import { ormEngines } from './connectors-b.ts'

for (const orm of ['Prisma', 'TypeORM', 'Sequelize', 'MikroORM'] as const) {
  for (const engine of ormEngines(orm)) {
    if (engine.server !== undefined) overlapsSuite(engine, { runs: 5, isolations: ['read committed'] })
  }
}
