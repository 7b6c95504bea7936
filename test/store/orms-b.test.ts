import { describe } from 'vitest'
import { ormEngines } from '../orms/connectors-b.ts'
import { textSuite } from './queue.ts'

const engines = [
  ...ormEngines('Prisma'),
  ...ormEngines('TypeORM'),
  ...ormEngines('Sequelize'),
  ...ormEngines('MikroORM'),
]

for (const engine of engines) describe(engine.name, { timeout: 60_000 }, () => textSuite(engine))
